"""Where peers are, looked up apart from everything else, so that a name that nobody answers holds up nobody.

The resolver of the event loop has a few threads for all names (two of them in libuv), and each lookup of a dead node
takes one for up to twenty seconds: meanwhile no new connection to a living node could be opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
import time
from dataclasses import dataclass
from typing import Final, TypeAlias

import httpx

_FRESH_SECONDS: Final = 5.0
Lookup: TypeAlias = "asyncio.Future[tuple[str, ...]]"


@dataclass(frozen=True, slots=True)
class _Entry:
    addresses: tuple[str, ...]
    resolution_time: float


class Addresses:
    """The last known addresses of each host; renewed in the background while they are used."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._lookups: dict[str, Lookup] = {}

    async def of(self, host: str, seconds: float) -> tuple[str, ...]:
        """The addresses of `host`, at once if it was ever resolved. Raises httpx.ConnectError, httpx.ConnectTimeout."""
        if _is_address(host):
            return (host,)
        entry = self._entries.get(host)
        if entry is None or time.monotonic() - entry.resolution_time > _FRESH_SECONDS:
            lookup = self._look_up(host)
            if entry is None:
                await asyncio.wait({lookup}, timeout=seconds)
                if not lookup.done():
                    raise httpx.ConnectTimeout(f"the name {host} was not resolved within {seconds:g} s")
                if (error := lookup.exception()) is not None:
                    raise httpx.ConnectError(f"the name {host} cannot be resolved: {error}") from error
                return lookup.result()
        return self._entries[host].addresses

    def prefer(self, host: str, address: str) -> None:
        """Remember which of several addresses answers."""
        entry = self._entries.get(host)
        if entry is not None and address in entry.addresses[1:]:
            other_addresses = tuple(candidate for candidate in entry.addresses if candidate != address)
            self._entries[host] = _Entry((address, *other_addresses), entry.resolution_time)

    def doubt(self, host: str) -> None:
        """Look again now: nobody answers at what is known."""
        if not _is_address(host):
            self._look_up(host)

    def _look_up(self, host: str) -> Lookup:
        """The lookup under way, at most one for each host."""
        lookup = self._lookups.get(host)
        if lookup is not None:
            return lookup
        loop = asyncio.get_running_loop()
        lookup = self._lookups[host] = loop.create_future()
        lookup.add_done_callback(lambda future: self._learn(host, future))
        # A daemon: the process must not wait at its end for a name that nobody answers, as it would for a pool.
        thread = threading.Thread(target=_resolve, args=(host, loop, lookup), name=f"lookup {host}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the machine, or the container's limit, has no thread to give now
            lookup.set_exception(OSError(str(error)))
        return lookup

    def _learn(self, host: str, lookup: Lookup) -> None:
        del self._lookups[host]
        if lookup.cancelled() or lookup.exception() is not None:
            return  # what was known stays: a name may be missing for as long as its node is restarted
        addresses = lookup.result()
        entry = self._entries.get(host)
        if entry is not None and set(entry.addresses) == set(addresses):
            addresses = entry.addresses  # in the order of preference
        self._entries[host] = _Entry(addresses, time.monotonic())


class ByAddress(httpx.AsyncBaseTransport):
    """Sends each request to an address of its host; Host header and TLS name stay those of the host."""

    def __init__(self, transport: httpx.AsyncBaseTransport, addresses: Addresses | None = None) -> None:
        self._transport = transport
        self._addresses = addresses or Addresses()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Tries one address after the other while none connects, within the time for connecting."""
        host = request.url.host
        timeout: dict[str, float] = request.extensions["timeout"]
        addresses = await self._addresses.of(host, timeout["connect"])
        timeout_share = {**timeout, "connect": timeout["connect"] / len(addresses)}
        failure: httpx.TransportError | None = None
        for address in addresses:
            extensions = {**request.extensions, "timeout": timeout_share, "sni_hostname": host}
            url = request.url.copy_with(host=address)
            direct_request = httpx.Request(
                request.method, url, headers=request.headers, stream=request.stream, extensions=extensions
            )
            try:
                response = await self._transport.handle_async_request(direct_request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
                continue
            self._addresses.prefer(host, address)
            return response
        self._addresses.doubt(host)
        raise failure or httpx.ConnectError(f"the name {host} has no address")

    async def aclose(self) -> None:
        await self._transport.aclose()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _resolve(host: str, loop: asyncio.AbstractEventLoop, lookup: Lookup) -> None:
    """Runs in a thread of its own."""
    addresses: tuple[str, ...] = ()
    failure: OSError | ValueError | None = None
    try:
        rows = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        addresses = tuple(dict.fromkeys(str(row[4][0]) for row in rows))
    except (OSError, ValueError) as error:  # the second is what Python says of a label that is too long
        failure = error

    def deliver() -> None:
        if lookup.done():
            return
        if failure is not None:
            lookup.set_exception(failure)
        else:
            lookup.set_result(addresses)

    with contextlib.suppress(RuntimeError):  # the loop has ended, and with it everybody who would ask
        loop.call_soon_threadsafe(deliver)
