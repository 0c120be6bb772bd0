"""From start to exit: what runs side by side, what a signal does, and in which order everything ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import uvloop

from goud_node import clock
from goud_node.errors import GoudError
from goud_node.service import identity as identities
from goud_node.service.listeners import Listener, address, bind
from goud_node.service.node import Node, build
from goud_node.settings import LogFormat, Settings
from goud_node.telemetry import configure_logging

_log = logging.getLogger(__name__)
_STOP_SECONDS: Final = 8.5
SWITCH_SECONDS: Final = 0.0005
"""How long the thread that proves and indexes blocks may keep the loop from going on; the default is ten times that."""


class ServiceFailed(GoudError):
    """A part of the node ended by itself: a defect, the log has the cause."""

    code = "service-failed"


def serve(settings: Settings) -> None:
    """Run a node until SIGTERM or SIGINT.

    Raises GoudError before anything is served when the node must not start, and ServiceFailed when a part of it broke
    down later (everything else has been closed in order then).
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    configure_logging(settings.log_level, as_json=settings.log_format is LogFormat.JSON)
    identity, start_time = identities.load(settings), clock.running()
    with (
        bind(settings.http_host, settings.http_port, "GOUD_HTTP_PORT") as http,
        bind(settings.peer_host, settings.peer_port, "GOUD_PEER_PORT") as peer,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_run(settings, identity, http, peer, start_time))


async def _run(
    settings: Settings, identity: identities.Identity, http: socket.socket, peer: socket.socket, start_time: float
) -> None:
    stop_request = asyncio.Event()
    with _signals(stop_request):
        node = build(settings, identity, start_time)
        # What was imported and built stays for good: later collections, the last one included, need not look at it.
        gc.collect()
        gc.freeze()
        try:
            parts = start(node, http, peer)
            _log.info(
                "node %s of chain %s serves http://%s, peers on %s, at height %d",
                settings.node_id,
                identity.genesis.chain_id,
                address(http),
                address(peer),
                node.ledger.height,
            )
            failed_part = await _wait_for_end(parts, stop_request)
            stop_time = time.monotonic()
            await stop(node, parts)
        finally:
            await node.close()
        _log.info("stopped in %.1f s at height %d", time.monotonic() - stop_time, node.ledger.height)
    if failed_part is not None:
        raise ServiceFailed(f"The node stopped because {failed_part} broke down; its log has the cause.")


@dataclass
class Parts:
    """What runs side by side; a part that ends by itself is a defect."""

    public: Listener
    peer: Listener
    tasks: dict[str, asyncio.Task[None]]


def start(node: Node, http: socket.socket, peer: socket.socket) -> Parts:
    """Start every part, serving on two listening sockets."""
    public = Listener(node.api, http, node.settings)
    private = Listener(node.peer_api, peer, node.settings, host=node.settings.peer_host)
    coroutines = {
        "the peer interface": private.run(),
        "the replica": node.replica.run(),
        "the public interface": public.run(),
        "the event stream": node.broadcaster.run(),
        "the peer watch": node.peers.watch(node.settings.peer_poll_seconds),
        "the disk watch": node.disk.run(),
        "the checkpoint sweep": node.checkpoints.sweep_forever(),
    }
    return Parts(
        public, private, {name: asyncio.create_task(coroutine, name=name) for name, coroutine in coroutines.items()}
    )


async def _wait_for_end(parts: Parts, stop_request: asyncio.Event) -> str | None:
    """Wait for a signal, or for a part that ends; its name."""
    signal_task = asyncio.create_task(stop_request.wait())
    done, _ = await asyncio.wait([signal_task, *parts.tasks.values()], return_when=asyncio.FIRST_COMPLETED)
    if signal_task in done:
        return None
    signal_task.cancel()
    for name, task in parts.tasks.items():
        if task.done():
            _log.critical("%s broke down", name, exc_info=None if task.cancelled() else task.exception())
            return name
    return None


async def stop(node: Node, parts: Parts) -> None:
    """Red at once, then hand over while the balancer moves away, then finish what is in flight, then close."""
    budget = _Budget(_STOP_SECONDS)
    node.replica.drain()
    _log.info("draining for %g s", node.settings.drain_delay_seconds)
    await asyncio.gather(asyncio.sleep(node.settings.drain_delay_seconds), _hand_over(node, budget))
    parts.public.stop()
    await _wait_for_part(parts, "the public interface", budget.at_most(node.settings.shutdown_seconds + 0.5))
    with _log_failure("the replica did not stop in time"):
        async with asyncio.timeout(budget.at_most(2.0)):
            await node.replica.stop()
    await _wait_for_part(parts, "the replica", budget.at_most(1.0))
    parts.peer.stop()
    await _wait_for_part(parts, "the peer interface", budget.at_most(1.0))
    for task in parts.tasks.values():
        task.cancel()
    await asyncio.gather(*parts.tasks.values(), return_exceptions=True)


async def _hand_over(node: Node, budget: _Budget) -> None:
    if len(node.identity.genesis.validators) < 2 or not node.settings.etcd_endpoints:
        return
    with _log_failure("no other node took the lead in time"):
        async with asyncio.timeout(budget.at_most(4.0)):
            if not await node.replica.hand_over():
                raise TimeoutError


async def _wait_for_part(parts: Parts, name: str, seconds: float) -> None:
    await asyncio.wait([parts.tasks[name]], timeout=seconds)
    if not parts.tasks[name].done():
        _log.warning("%s did not end within %.1f s and is cut off", name, seconds)


class _Budget:
    """Seconds left of the whole shutdown: an engine kills after ten, and closing the database needs the rest."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def at_most(self, seconds: float) -> float:
        return max(0.05, min(seconds, self._end - time.monotonic()))


@contextlib.contextmanager
def _log_failure(message: str) -> Iterator[None]:
    """A step of the shutdown that fails must not keep the later ones from happening."""
    try:
        yield
    except TimeoutError:
        _log.warning(message)
    except GoudError as error:
        _log.warning("%s: %s", message, error)


@contextlib.contextmanager
def _signals(stop_request: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    signal_numbers = (signal.SIGTERM, signal.SIGINT)
    for number in signal_numbers:
        loop.add_signal_handler(number, stop_request.set)
    try:
        yield
    finally:
        for number in signal_numbers:
            loop.remove_signal_handler(number)
