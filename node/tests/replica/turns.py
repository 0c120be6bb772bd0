"""An event loop without sockets, threads or real time, so that a schedule decides what the clients of a world meet."""

from __future__ import annotations

import asyncio
import heapq
from asyncio.events import _get_running_loop, _set_running_loop
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


class Turns(asyncio.AbstractEventLoop):
    """Runs what is ready when it is told to; `now` says what time it is."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[asyncio.TimerHandle] = []

    def run(self) -> None:
        """Run until nothing is ready any more at this time."""
        if not self._ready and not self._is_due():
            return
        before = _get_running_loop()
        _set_running_loop(self)
        try:
            while self._ready or self._is_due():
                while self._is_due():
                    self._ready.append(heapq.heappop(self._timers))
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            _set_running_loop(before)

    def _is_due(self) -> bool:
        return bool(self._timers) and self._timers[0].when() <= self._now()

    def time(self) -> float:
        return self._now()

    def call_soon(  # type: ignore[override]  # the types of the arguments are the caller's affair
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]  # as above
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, handle)
        return handle

    def call_later(  # type: ignore[override]  # as above
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now() + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]  # as above
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Of tasks that a violation has left behind; what a task of a client raises is looked at by `Clients`."""

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Its turn comes, and it is passed over."""
