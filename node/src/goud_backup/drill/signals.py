"""Signals that end a drill come between two steps, never between a thing and the promise to clear it away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_back() -> Iterator[None]:
    """A signal that arrives in this block takes effect after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrivals: list[int] = []
    former = {
        number: signal.signal(number, lambda number, _: arrivals.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    for arrival in arrivals:
        signal.raise_signal(arrival)
