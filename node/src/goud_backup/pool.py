"""Work on several cores: threads with a bounded amount in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def run(work: Callable[[T], R], items: Iterable[T], workers: int) -> list[R]:
    """The results in no particular order. The first failure ends everything and is raised.

    Hashing, compression, encryption and input/output all let go of the interpreter lock, so threads use every core; at
    most two items a worker are under way.
    """
    results: list[R] = []
    pending: set[Future[R]] = set()
    with ThreadPoolExecutor(workers, thread_name_prefix="backup") as executor:
        try:
            for item in items:
                if len(pending) >= 2 * workers:
                    pending = _collect(pending, results)
                pending.add(executor.submit(work, item))
            while pending:
                pending = _collect(pending, results)
        except BaseException:
            for future in pending:
                future.cancel()
            raise
    return results


def ahead(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """The results in the order of the items, of which `workers` are under way while the caller uses the one before.

    For what waits rather than works. The first failure is raised in its place.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="ahead") as executor:
        try:
            for item in items:
                pending.append(executor.submit(work, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _collect(pending: set[Future[R]], results: list[R]) -> set[Future[R]]:
    done, rest = wait(pending, return_when=FIRST_COMPLETED)
    results.extend(future.result() for future in done)
    return rest
