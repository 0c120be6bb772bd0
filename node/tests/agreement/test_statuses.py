"""Whatever status an etcd endpoint answers, another member is asked, and who called learns which one said what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio
import pytest

from goud_node.agreement.etcd import EtcdKv
from goud_node.agreement.kv import Put
from goud_node.errors import OutcomeUnknown, Unavailable

REJECTIONS = ("INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE", "UNIMPLEMENTED", "FAILED_PRECONDITION")
"""Of which gRPC says that the request had no effect."""
STATUSES = [status for status in grpc.StatusCode if status is not grpc.StatusCode.OK]

CALLS: dict[str, Callable[[EtcdKv], Awaitable[object]]] = {
    "range": lambda kv: kv.range(b"a"),
    "transaction": lambda kv: kv.txn([], [Put(b"a", b"b")]),
    "grant": lambda kv: kv.grant(5),
    "renewal": lambda kv: kv.keep_alive(7),
    "revocation": lambda kv: kv.revoke(7),
    "compaction": lambda kv: kv.compact_and_reclaim(),
}


@dataclass
class Stub(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Answers every call with one status, or with one message."""

    status: grpc.StatusCode
    message: bytes = b""
    methods: list[str] = field(default_factory=list)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        self.methods.append(details.method)

        async def answer(_request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            if self.status is not grpc.StatusCode.OK:
                await context.abort(self.status, "said the stub")
            return self.message

        async def stream(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
            async for request in requests:
                yield await answer(request, context)

        if details.method.endswith("LeaseKeepAlive"):
            return grpc.stream_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def serving(*stubs: Stub) -> AsyncIterator[tuple[EtcdKv, list[str]]]:
    servers, endpoints = [], []
    for stub in stubs:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((stub,))
        endpoints.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        servers.append(server)
    kv = EtcdKv(endpoints, timeout=5.0)
    try:
        yield kv, endpoints
    finally:
        await kv.close()
        for server in servers:
            await server.stop(0)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", STATUSES, ids=lambda status: status.name)
async def test_a_status_is_an_error_of_ours_that_names_it_and_the_endpoint(status: grpc.StatusCode, call: str) -> None:
    async with serving(Stub(status)) as (kv, endpoints):
        # Of a write that may have been taken up nobody says that it was not.
        is_unknown = call == "transaction" and status.name not in REJECTIONS
        with pytest.raises(OutcomeUnknown if is_unknown else Unavailable) as caught:
            await asyncio.wait_for(CALLS[call](kv), 20)
        assert endpoints[0] in str(caught.value)
        assert "said the stub" in str(caught.value) or status is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("call", ["range", "transaction", "grant", "revocation"])
@pytest.mark.parametrize("status", REJECTIONS)
async def test_another_member_is_asked_when_one_rejects_the_request(status: str, call: str) -> None:
    stranger, member = Stub(grpc.StatusCode[status]), Stub(grpc.StatusCode.OK)
    async with serving(stranger, member) as (kv, _):
        for _ in range(2):
            await CALLS[call](kv)
    assert (len(stranger.methods), len(member.methods)) == (1, 2)


async def test_an_answer_that_is_too_long_is_named_and_leaves_no_member() -> None:
    first, second = Stub(grpc.StatusCode.OK, bytes(65 << 20)), Stub(grpc.StatusCode.OK)
    async with serving(first, second) as (kv, _):
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"too long .*larger than max"):
                await kv.range(b"a", b"b")
    assert second.methods == []


@pytest.mark.parametrize("call", CALLS)
async def test_an_answer_that_is_none_of_etcd_is_an_error_of_ours(call: str) -> None:
    async with serving(Stub(grpc.StatusCode.OK, b"\xff junk")) as (kv, endpoints):
        with pytest.raises((Unavailable, OutcomeUnknown), match=endpoints[0]):
            await asyncio.wait_for(CALLS[call](kv), 20)
