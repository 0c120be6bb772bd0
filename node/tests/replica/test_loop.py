"""The event loop is not held: long work happens beside it, and whoever waits is told a slice at a time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goud_node.chain.block import MAX_BLOCK_BYTES, Block, Header
from goud_node.chain.ledger import Receipt
from goud_node.errors import Unavailable
from goud_node.replica import core as cores
from goud_node.replica.batch import Batch
from goud_node.replica.queue import _SLICE, Queue, Submission

from .actors import ENTRIES

RECEIPT = Receipt(1, 0, "a", bytes(32))


def submissions(count: int) -> list[Submission]:
    loop, entry = asyncio.get_running_loop(), ENTRIES[0]
    return [Submission(b"%d" % number, entry.transaction, loop.create_future()) for number in range(count)]


@pytest.mark.parametrize("count", [1, _SLICE, _SLICE + 1, 40 * _SLICE])
@pytest.mark.parametrize("how", ["settle", "release", "fail"])
async def test_those_who_wait_are_told_a_slice_in_a_turn(count: int, how: str) -> None:
    queue, waiting = Queue(count, 1 << 30), submissions(count)
    for submission in waiting:
        queue.put(submission)
    if how == "settle":
        queue.settle(Batch(receipts=[(submission, RECEIPT) for submission in waiting]))
    elif how == "release":
        queue.release(frozenset())
    else:
        queue.fail(Unavailable("full"), frozenset())
    assert len(queue) == 0, "nobody is chosen again"
    told = sum(submission.result.done() for submission in waiting)
    turns = 0
    while told < count:
        await asyncio.sleep(0)
        before, told = told, sum(submission.result.done() for submission in waiting)
        assert told - before <= _SLICE
        turns += 1
    assert turns >= (count - 1) // _SLICE
    assert all(submission.result.exception() is None or how == "fail" for submission in waiting)


@pytest.mark.parametrize(("most", "most_bytes"), [(2, 1 << 30), (1 << 30, 2)], ids=["in number", "in bytes"])
async def test_a_full_queue_takes_no_more_until_some_are_answered(most: int, most_bytes: int) -> None:
    queue, waiting = Queue(most, most_bytes), submissions(3)
    for submission in waiting[:2]:
        queue.put(submission)
    with pytest.raises(Unavailable, match="2 submissions are waiting"):
        queue.put(waiting[2])
    queue.settle(Batch(receipts=[(waiting[0], RECEIPT)]))
    queue.put(waiting[2])
    assert queue.waiting() == waiting[1:]


async def test_an_answer_that_is_decided_first_stands() -> None:
    queue, waiting = Queue(100, 1 << 30), submissions(100)
    for submission in waiting:
        queue.put(submission)
    queue.settle(Batch(receipts=[(submission, RECEIPT) for submission in waiting]))
    queue.fail(Unavailable("this node halted"), frozenset())
    assert [await submission.result for submission in waiting] == [RECEIPT] * 100


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(1, MAX_BLOCK_BYTES)), max_size=12))
def test_blocks_are_written_in_parts_of_bounded_size(shapes: list[tuple[int, int]]) -> None:
    blocks = []
    for count, size in shapes:
        block = Block(Header("c", 1, bytes(32), 1, "n1", bytes(32), count), (), bytes(64))
        block.__dict__["_encoding"] = bytes(size)
        blocks.append(block)
    parts = list(cores._parts(blocks))
    assert [at for start, stop in parts for at in range(start, stop)] == list(range(len(blocks)))
    for start, stop in parts:
        counts, sizes = zip(*shapes[start:stop], strict=True)
        assert stop == start + 1 or (sum(counts) <= cores._WRITE_COUNT and sum(sizes) <= MAX_BLOCK_BYTES)
