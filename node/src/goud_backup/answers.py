"""Answers of whom nobody has vouched for yet: all of one, within a time and a length, or an error."""

from __future__ import annotations

import asyncio

import httpx


async def whole(client: httpx.AsyncClient, url: str, most: int, seconds: float) -> httpx.Response:
    """What GET brings: at most `most` bytes as they were sent, after at most `seconds` from the name to the last byte.

    Raises httpx.HTTPError, httpx.InvalidURL.
    """
    port = httpx.URL(url).port
    if port is not None and not 0 < port < 1 << 16:
        raise httpx.InvalidURL(f"{port} is not a port")
    try:
        return await asyncio.wait_for(_read(client, url, most), seconds)
    except TimeoutError as error:
        raise httpx.ReadTimeout(f"no whole answer within {seconds:g} s") from error
    except UnicodeError as error:
        raise httpx.InvalidURL(f"no name of a host: {error}") from error


async def _read(client: httpx.AsyncClient, url: str, most: int) -> httpx.Response:
    content = bytearray()
    try:
        async with client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
            # As it comes: a short answer could unpack to a long one.
            async for data in answer.aiter_raw():
                content += data
                if len(content) > most:
                    raise httpx.TransportError(f"its answer is longer than {most} bytes, and no node's is")
        # Without its headers: one that names a compression would have it unpacked.
        return httpx.Response(answer.status_code, content=bytes(content), request=answer.request)
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
