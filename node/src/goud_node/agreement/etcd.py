"""The ordered log on etcd: a current member, rotation to the next on failure, and no lost answer hidden.

etcd3aio's own client spreads calls over all members and repeats them; a repeated transaction would hide that the first
one may have been applied. Here its services run on one channel per member, with one attempt per call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import grpc
import grpc.aio
from etcd3aio.errors import EtcdError
from etcd3aio.kv import KVService
from etcd3aio.maintenance import AlarmType

from goud_node.agreement.channels import Member, TlsFiles
from goud_node.agreement.kv import Compare, KeyValue, Operation, Put, Txn
from goud_node.errors import ConfigurationError, CoordinationFull, OutcomeUnknown, Unavailable
from goud_node.telemetry import Lasting

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_Failure = (EtcdError, grpc.aio.AioRpcError, TimeoutError)

# Answers of which gRPC or etcd says that the request was not taken up. Everything else may have happened.
_NEVER_SENT = ("failed to connect to all addresses", "dns resolution failed", "connections to all backends failing")
_NO_SPACE = "database space exceeded"
_LEASE_GONE = "requested lease not found"
_REJECTIONS = (
    # Of our request, or because the port is another server's: another member tells which. gRPC makes none of them up.
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
)
_TOO_LONG = "message larger than max"
_REFUSED = ("too many requests", "request is too large")


class _LeaseGone(Unavailable):
    """The lease of the call has ended."""


class _Unreachable(Unavailable):
    """No member answers."""

    reported = True


class _Silent(OutcomeUnknown):
    """The member that has the request does not answer."""

    reported = True


class EtcdKv:
    """A `Kv` on an etcd cluster."""

    def __init__(
        self,
        endpoints: Sequence[str],
        tls: TlsFiles | None = None,
        *,
        timeout: float = 1.0,
        maintenance_timeout: float = 30.0,
    ) -> None:
        """`endpoints` are host:port. `timeout` in seconds bounds every call on one member.

        A member that lost its quorum answers late or never, so the timeout is what finds a better one.
        """
        if not endpoints:
            raise ConfigurationError("no etcd endpoint is given; set GOUD_ETCD_ENDPOINTS to a list of host:port")
        self._endpoints = list(endpoints)
        self._tls = tls
        self._timeout = timeout
        self._maintenance_timeout = maintenance_timeout
        self._index = 0
        self._member: Member | None = None
        self._rotation = asyncio.Event()
        self._failures = Lasting()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Txn:
        """One transaction, sent once. Moves to another member only when it surely never left this one."""
        conditions = [_compare(compare) for compare in compares]
        requests = [_operation(operation) for operation in operations]
        answer = await self._repeat(
            lambda member: member.kv.txn(conditions, requests, timeout=self._timeout), "transaction", once=True
        )
        self._note_answer(self._current())
        return Txn(succeeded=bool(answer.succeeded), revision=int(answer.header.revision))

    async def range(
        self, start: bytes, end: bytes | None = None, limit: int = 0, *, keys_only: bool = False
    ) -> list[KeyValue]:
        """Linearizable read; tries every member."""
        answer = await self._repeat(
            lambda member: member.kv.get(start, end, limit=limit, keys_only=keys_only, timeout=self._timeout), "range"
        )
        self._note_answer(self._current())
        return [
            KeyValue(kv.key, kv.value, int(kv.create_revision), int(kv.mod_revision), int(kv.lease))
            for kv in answer.kvs
        ]

    async def grant(self, ttl: int) -> int:
        """A lease whose answer was lost is granted again: the lost one ends by itself."""
        answer = await self._repeat(lambda member: member.lease.grant(ttl, timeout=self._timeout), "grant")
        return int(answer.ID)

    async def keep_alive(self, lease: int) -> bool:
        """Renew on one member, then on the others."""
        return await self._repeat(lambda member: self._renew(member, lease), "renewal")

    async def revoke(self, lease: int) -> None:
        """Ending a lease twice does no harm, so a lost answer is repeated."""
        with contextlib.suppress(_LeaseGone):
            await self._repeat(lambda member: member.lease.revoke(lease, timeout=self._timeout), "revocation")

    async def changes(self, start: bytes, end: bytes) -> AsyncIterator[None]:
        """Watch on the current member, anew after each rotation."""
        while True:
            member = self._current()
            rotation = self._rotation
            stream = member.watch.watch(start, end)
            rotation_task = asyncio.ensure_future(rotation.wait())
            try:
                while not rotation.is_set():
                    event = asyncio.ensure_future(anext(stream, None))
                    try:
                        await asyncio.wait({event, rotation_task}, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        if not event.done():
                            event.cancel()
                            await asyncio.wait({event})
                    if event.cancelled() or event.exception() is not None or event.result() is None:
                        break
                    yield
            finally:
                rotation_task.cancel()
                await stream.aclose()  # type: ignore[attr-defined]  # declared as an iterator, is a generator
            yield  # whatever happened meanwhile was missed
            await asyncio.sleep(0.2)

    async def compact_and_reclaim(self) -> None:
        """Compact to the present; when the space alarm is raised, defragment member by member and disarm it.

        Raises Unavailable when a member could not be reached: the alarm then stays until the next try.
        """
        status = await self._repeat(lambda member: member.maintenance.status(timeout=self._timeout), "status")
        alarms = await self._repeat(lambda member: member.maintenance.alarms(timeout=self._timeout), "alarm list")
        space_alarms = [alarm for alarm in alarms.alarms if alarm.alarm == AlarmType.NOSPACE]
        try:
            await self._current().kv.compact(
                int(status.header.revision), physical=bool(space_alarms), timeout=self._maintenance_timeout
            )
        except grpc.aio.AioRpcError as error:
            if "has been compacted" not in _message(error):
                raise Unavailable(f"etcd was not compacted: {_message(error)}") from error
        except _Failure as error:
            raise Unavailable(f"etcd was not compacted: {_message(error)}") from error
        if space_alarms:
            await self._defragment_all()
            for alarm in space_alarms:
                await self._disarm(int(alarm.memberID))

    async def close(self) -> None:
        """Close every channel."""
        self._closed.set()
        member, self._member = self._member, None
        if member is not None:
            await member.close()
        if self._closing:
            await asyncio.wait(self._closing)

    async def _repeat(self, call: Callable[[Member], Awaitable[_T]], name: str, *, once: bool = False) -> _T:
        """Run a call on one member after the other; with `once` it goes on only when it surely had no effect."""
        reasons: list[str] = []
        for _ in self._endpoints:
            member = self._current()
            try:
                answer = await call(member)
                if answer is None:  # what gRPC makes of bytes that it cannot decode
                    raise EtcdError("it sent no message of etcd")
            except _Failure as error:
                if _TOO_LONG in _message(error) and not once:
                    raise Unavailable(
                        f"etcd's answer to the {name} is too long ({_message(error)}); delete with etcdctl what "
                        "no node wrote there"
                    ) from error
                is_unsent = self._refuse(error, member, name)
                if once and not is_unsent:
                    raise _Silent(f"etcd at {member.endpoint} did not answer ({_message(error)})") from error
                reasons.append(f"{member.endpoint}: {_message(error)}")
            else:
                return answer
        raise _Unreachable(
            f"no etcd member answers the {name} ({'; '.join(reasons)}); check that a majority of them runs, and that "
            "GOUD_ETCD_ENDPOINTS names them"
        )

    def _refuse(self, error: Exception, member: Member, name: str) -> bool:
        """Raise what is final; otherwise leave the member, and return whether the request surely never left."""
        message = _message(error)
        if _NO_SPACE in message:
            raise CoordinationFull(
                "etcd raised its space alarm and takes no writes until space is reclaimed"
            ) from error
        if _LEASE_GONE in message:
            raise _LeaseGone(f"etcd refused the {name}: the lease has ended") from error
        if any(reason in message for reason in _REFUSED):
            raise Unavailable(f"etcd refused the {name}: {message}") from error
        self._leave(member, f"{name}: {message}")
        is_rejected = isinstance(error, grpc.aio.AioRpcError) and error.code() in _REJECTIONS
        return is_rejected or any(reason in message for reason in _NEVER_SENT)

    def _current(self) -> Member:
        if self._member is None:
            self._member = Member(self._endpoints[self._index], self._tls)
        return self._member

    def _leave(self, member: Member, reason: str) -> None:
        """Turn to the next member; a dead connection must not be found again, so its channel is closed."""
        if member is not self._member:
            return  # another call has left it already
        self._index = (self._index + 1) % len(self._endpoints)
        if self._failures.goes_on("etcd"):  # without it every call comes by here, several times a second
            _log.warning("etcd at %s failed (%s), turning to %s", member.endpoint, reason, self._endpoints[self._index])
        self._member = None
        self._rotation.set()
        self._rotation = asyncio.Event()
        task = asyncio.ensure_future(self._close_later(member))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _note_answer(self, member: Member) -> None:
        """A member with a quorum answered."""
        seconds = self._failures.ends("etcd")
        if seconds is not None:
            _log.info("etcd answers again, at %s, after %.1f s", member.endpoint, seconds)

    async def _close_later(self, member: Member) -> None:
        # Calls still in flight on it get their full time: their answers may yet arrive.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                await self._closed.wait()
        await member.close()

    async def _renew(self, member: Member, lease: int) -> bool:
        stream = member.lease.keep_alive(lease)
        try:
            async with asyncio.timeout(self._timeout):
                async for answer in stream:
                    if answer is None:
                        break
                    return int(answer.TTL) > 0
        finally:
            stream.cancel()
        raise TimeoutError("the renewal stream ended without an answer")

    async def _defragment_all(self) -> None:
        # One after the other: a member does not answer while it defragments, so two at once could cost the quorum.
        for endpoint in self._endpoints:
            member = Member(endpoint, self._tls)
            try:
                await member.maintenance.defragment(timeout=self._maintenance_timeout)
            except _Failure as error:
                raise Unavailable(
                    f"etcd at {endpoint} was not defragmented: {_message(error)}; trying later"
                ) from error
            finally:
                await member.close()
            _log.warning("etcd at %s is defragmented", endpoint)

    async def _disarm(self, member_id: int) -> None:
        await self._repeat(
            lambda member: member.maintenance.alarm_deactivate(
                AlarmType.NOSPACE, member_id=member_id, timeout=self._timeout
            ),
            "disarming",
        )
        _log.warning("the space alarm of etcd member %x is disarmed", member_id)


def _message(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}".lower()
    return str(error).lower() or type(error).__name__


def _compare(compare: Compare) -> object:
    key, value = compare.key, compare.value
    if isinstance(value, bytes):
        return KVService.txn_compare_value(key, value)
    if compare.kind == "version":
        return KVService.txn_compare_version(key, value)
    if compare.kind == "create_revision":
        return KVService.txn_compare_create_revision(key, value)
    request = KVService.txn_compare_create_revision(key, 0)
    request.target = type(request).MOD
    request.mod_revision = value
    return request


def _operation(operation: Operation) -> object:
    if isinstance(operation, Put):
        return KVService.txn_op_put(operation.key, operation.value, lease=operation.lease)
    return KVService.txn_op_delete(operation.start, range_end=operation.end)
