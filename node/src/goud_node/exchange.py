"""HTTP with whom nobody has vouched for yet: a request, and all of its answer within a time and a length, or an error.

Only the transports of the library are used. Its clients do more with an answer than read it, before anybody knows who
gave it: they keep its cookies for every later request, and look at where it wants to lead.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any

import httpx


def address_of(url: str) -> httpx.URL:
    """The URL of a server. Raises httpx.UnsupportedProtocol, also for a host or a port that no network can have."""
    try:
        address = httpx.URL(url)
        # Resolving refuses a label that is too long only when the node runs already.
        address.raw_host.decode().encode("idna")
    except (httpx.InvalidURL, ValueError) as error:
        raise httpx.UnsupportedProtocol(f"{url!r:.100} is no URL: {error}") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise httpx.UnsupportedProtocol(f"{url!r:.100} names no server to ask over HTTP")
    if address.port is not None and not 0 < address.port < 1 << 16:
        raise httpx.UnsupportedProtocol(f"{address.port} is not a port")
    return address


def request_of(
    method: str,
    url: str,
    timeout: httpx.Timeout,
    *,
    headers: Mapping[str, str] | None = None,
    content: bytes | None = None,
    document: Any = None,
) -> httpx.Request:
    """A request that asks for an answer as it is: a short one could unpack to a long one.

    Raises httpx.UnsupportedProtocol.
    """
    return httpx.Request(
        method,
        address_of(url),
        headers={"Accept-Encoding": "identity", **(headers or {})},
        content=content,
        json=document,
        extensions={"timeout": timeout.as_dict()},
    )


async def whole(
    transport: httpx.AsyncBaseTransport,
    request: httpx.Request,
    most: int,
    seconds: float,
    *names: str,
    rate: float = math.inf,
) -> httpx.Response:
    """The answer: at most `most` bytes, at most `seconds` after the request, longer by what the received bytes take
    at `rate` bytes a second; of its headers those of these names.

    Raises httpx.TransportError, and nothing else, whatever comes.
    """
    try:
        async with asyncio.timeout(seconds) as deadline:
            begin = deadline.when() or 0.0
            return await _read(
                transport, request, most, names, lambda length: deadline.reschedule(begin + length / rate)
            )
    except TimeoutError as error:
        raise httpx.ReadTimeout(f"no whole answer within {seconds:g} s") from error
    except httpx.TransportError:
        raise
    except Exception as error:  # what the library did not foresee in an answer is no fault of this program
        raise httpx.RemoteProtocolError(f"its answer cannot be read: {error!r:.200}") from error


async def _read(
    transport: httpx.AsyncBaseTransport,
    request: httpx.Request,
    most: int,
    names: tuple[str, ...],
    go_on: Callable[[int], None],
) -> httpx.Response:
    content = bytearray()
    answer = await transport.handle_async_request(request)
    try:
        # As it comes: a short answer could unpack to a long one.
        async for data in answer.aiter_raw():
            content += data
            if len(content) > most:
                raise httpx.TransportError(f"its answer is longer than {most} bytes, and no node's is")
            go_on(len(content))
        # Of the headers nothing else counts, such as one that names an encoding of the text.
        headers = {name: answer.headers[name] for name in names if name in answer.headers}
        return httpx.Response(answer.status_code, headers=headers, content=bytes(content), request=request)
    finally:
        # An error and its task refer to each other. With them this would stay until the collector looks for circles,
        # and who asks again and again would hold several answers at once.
        content.clear()
        await answer.aclose()


def reason(error: Exception) -> str:
    """What lies below: the library says of a refused connection that all attempts failed."""
    cause: BaseException = error
    while below := cause.__cause__ or cause.__context__:
        cause = below
    return f"{str(cause) or type(error).__name__}"[:200]
