"""Answers of whom nobody has vouched for yet: all of one, within a time and a length, or an error."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping

import httpx


async def whole(
    client: httpx.AsyncClient,
    url: str,
    most: int,
    seconds: float,
    *,
    rate: float = math.inf,
    method: str = "GET",
    content: bytes = b"",
    headers: Mapping[str, str] | None = None,
    keep: str = "",
) -> httpx.Response:
    """What a call brings: at most `most` bytes as they were sent, at most `seconds` after it began to the last byte,
    and as many more as what was received takes at `rate` bytes a second. Of its headers nothing but `keep`.

    Raises httpx.HTTPError, httpx.InvalidURL.
    """
    try:
        address = httpx.URL(url)
        if address.port is not None and not 0 < address.port < 1 << 16:
            raise httpx.InvalidURL(f"{address.port} is not a port")
        # Who sends nothing at all is waited for no longer than `seconds`, whatever was received before.
        limits = httpx.Timeout(seconds, connect=client.timeout.connect)
        request = client.build_request(method, address, content=content, headers=headers, timeout=limits)
        request.headers["Accept-Encoding"] = "identity"
        async with asyncio.timeout(seconds) as deadline:
            begin = deadline.when() or 0.0
            content, answer = await _read(
                client, request, most, lambda length: deadline.reschedule(begin + length / rate)
            )
        # Without its other headers: one that names a compression would have it unpacked.
        kept = {keep: answer.headers.get(keep, "")} if keep else {}
        return httpx.Response(answer.status_code, headers=kept, content=content, request=request)
    except TimeoutError as error:
        raise httpx.ReadTimeout(f"no whole answer within {seconds:g} s") from error
    except UnicodeError as error:
        raise httpx.InvalidURL(f"no name of a host, or no address of a page: {error}") from error


async def _read(
    client: httpx.AsyncClient, request: httpx.Request, most: int, go_on: Callable[[int], None]
) -> tuple[bytes, httpx.Response]:
    content = bytearray()
    try:
        answer = await client.send(request, stream=True)
        try:
            # As it comes: a short answer could unpack to a long one.
            async for data in answer.aiter_raw():
                content += data
                if len(content) > most:
                    raise httpx.TransportError(f"its answer is longer than {most} bytes, and no node's is")
                go_on(len(content))
        finally:
            await answer.aclose()
        return bytes(content), answer
    finally:
        # An error and its task refer to each other. With them this would stay until the collector looks for circles,
        # and who asks again and again would hold several answers at once.
        content.clear()


def reason(error: Exception) -> str:
    """What lies below: the library says of a refused connection that all attempts failed."""
    cause: BaseException = error
    while below := cause.__cause__ or cause.__context__:
        cause = below
    return f"{str(cause) or type(error).__name__}"[:200]
