"""Retention against its promises, for any history of backups."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goud_backup.repository.retention import Candidate, Policy, reasons_to_keep, unneeded_segments
from goud_backup.repository.segments import Reference, cover

START = datetime(2026, 1, 1, 2, tzinfo=UTC)


def candidate(
    sequence: int,
    when: datetime | None = None,
    *,
    height: int | None = None,
    kept: bool = False,
    whole: bool = True,
    proven: bool = False,
) -> Candidate:
    at = START + timedelta(days=sequence) if when is None else when
    tall = sequence * 10 if height is None else height
    return Candidate(f"b{sequence}", sequence, at, tall, tall, kept, whole, proven)


def staying(candidates: list[Candidate], policy: Policy, segments: list[Reference] | None = None) -> set[str]:
    return {name for name, why in reasons_to_keep(candidates, policy, segments or []).items() if why}


def segment(first: int, last: int) -> Reference:
    return Reference(f"segments/{first:012d}-{last:012d}-{'0' * 64}.seg", first, last, "0" * 64, 1)


candidates_strategy = st.lists(
    st.tuples(
        st.integers(-4000, 4000),  # hours of a clock that jumps at will
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.integers(1, 50),
        st.integers(0, 5),  # blocks above the last certified one
    ),
    max_size=25,
).map(
    lambda rows: [
        replace(
            candidate(
                number + 1,
                START + timedelta(hours=hours),
                height=height,
                kept=kept,
                whole=whole,
                proven=whole and proven,
            ),
            certified_height=max(0, height - uncertified),
        )
        for number, (hours, kept, whole, proven, height, uncertified) in enumerate(rows)
    ]
)
policies = st.builds(
    Policy, st.integers(0, 5), st.integers(1, 3), st.integers(0, 5), st.integers(0, 4), st.integers(0, 4)
)
segments_strategy = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 10)), max_size=8).map(
    lambda rows: [segment(first, first + more) for first, more in rows]
)


@given(candidates_strategy, policies, segments_strategy)
def test_the_promises(candidates: list[Candidate], policy: Policy, segments: list[Reference]) -> None:
    stay = staying(candidates, policy, segments)
    assert {one.id for one in candidates if one.kept} <= stay
    whole = [one for one in candidates if one.whole]
    if not whole:
        assert stay == {one.id for one in candidates}
        return
    assert max(whole, key=lambda one: one.sequence).id in stay
    assert max(candidates, key=lambda one: one.sequence).id in stay
    assert max(whole, key=lambda one: (one.height, one.sequence)).id in stay
    proven = [one for one in whole if one.proven]
    assert not proven or max(proven, key=lambda one: one.sequence).id in stay
    assert {one.id for one in sorted(whole, key=lambda one: -one.sequence)[: policy.last]} <= stay


@given(candidates_strategy, policies, segments_strategy)
def test_deciding_twice_changes_nothing(candidates: list[Candidate], policy: Policy, segments: list[Reference]) -> None:
    stay = staying(candidates, policy, segments)
    again = staying([one for one in candidates if one.id in stay], policy, segments)
    # What the whole history kept as the newest of its day stays the newest of its day.
    assert {one.id for one in candidates if one.kept} <= again <= stay
    last = [one for one in candidates if one.whole]
    assert not last or max(last, key=lambda one: one.sequence).id in again


@given(candidates_strategy, policies, segments_strategy)
def test_every_height_that_segments_lead_to_stays_reachable(
    candidates: list[Candidate], policy: Policy, segments: list[Reference]
) -> None:
    """A restore to the end of a run of segments works afterwards if it worked before."""

    def ends(held: list[Candidate], shipped: list[Reference]) -> set[int]:
        runs = [cover(shipped, base + 1) for base in [0, *(one.certified_height for one in held if one.whole)]]
        return {run[-1].last for run in runs if run}

    reasons = reasons_to_keep(candidates, policy, segments)
    held = [one for one in candidates if reasons[one.id]]
    dropped = {one.key for one in unneeded_segments(held, segments)}
    left = [one for one in segments if one.key not in dropped]
    # What a backup that stays holds itself needs no segments.
    top = max((one.height for one in held if one.whole), default=0)
    before = {height for height in ends(candidates, segments) if height > top}
    assert before <= ends(held, left)


def test_thirty_days_by_default() -> None:
    history = [candidate(number) for number in range(1, 41)]
    assert staying(history, Policy()) == {f"b{number}" for number in range(11, 41)}


def test_several_a_day_all_stay_within_the_days() -> None:
    history = [candidate(n, START + timedelta(hours=6 * n)) for n in range(1, 17)]
    days = {(START + timedelta(hours=6 * n)).date() for n in range(1, 17)}
    kept = staying(history, Policy(days=2))
    assert {one.created.date() for one in history if one.id in kept} == set(sorted(days)[-2:])


def test_generations() -> None:
    history = [candidate(number) for number in range(1, 101)]
    kept = staying(history, Policy(days=0, last=1, daily=3, weekly=2, monthly=3))
    created = {one.id: one.created for one in history}
    assert {"b100", "b99", "b98"} <= kept
    assert len({f"{created[name]:%Y-%m}" for name in kept}) == 3
    assert len(kept) <= 3 + 2 + 3


@pytest.mark.parametrize("jump", [timedelta(days=365), timedelta(days=-365)])
def test_a_clock_that_jumps_makes_nothing_old(jump: timedelta) -> None:
    history = [candidate(number) for number in range(1, 21)]
    before = staying(history, Policy(days=30))
    jumped = candidate(21, START + timedelta(days=21) + jump)
    assert staying([*history, jumped], Policy(days=30)) == before | {"b21"}


def test_a_damaged_newest_is_not_the_last_good() -> None:
    history = [candidate(1), candidate(2), candidate(3, whole=False)]
    assert {"b2", "b3"} <= staying(history, Policy(days=0))


def test_a_backup_that_segments_need_stays() -> None:
    # Shipping began at 21 and stopped at 60; nothing newer holds those blocks.
    history = [candidate(1, height=10), candidate(2, height=20), candidate(3, height=15, kept=True)]
    # The highest holds block 30, but its certificates end below what was shipped.
    history += [replace(candidate(4, height=30), certified_height=10), candidate(5, height=5)]
    assert "b2" in staying(history, Policy(days=0), [segment(21, 40), segment(41, 60)])
    assert "b2" not in staying(history, Policy(days=0))


@pytest.mark.parametrize("kept", [False, True], ids=["may go", "stays for another reason"])
@pytest.mark.parametrize("height", [20, 39, 60, 80], ids="damaged at {}".format)
def test_a_damaged_backup_does_not_stand_for_the_one_that_segments_need(height: int, *, kept: bool) -> None:
    needed, damaged = candidate(1, height=20), candidate(2, height=height, kept=kept, whole=False)
    # The highest holds block 30, but its certificates end below what was shipped.
    history = [needed, damaged, replace(candidate(3, height=30), certified_height=10), candidate(4, height=5)]
    assert needed.id in staying(history, Policy(days=0), [segment(21, 60)])


def test_segments_below_every_kept_backup_go() -> None:
    kept = [candidate(2, height=20), candidate(3, height=30)]
    shipped = [segment(1, 10), segment(11, 20), segment(15, 25), segment(26, 40)]
    assert [one.first for one in unneeded_segments(kept, shipped)] == [1, 11]
    # The lower one holds blocks 16 to 20 without their certificates, and those are in the second segment.
    kept[0] = replace(kept[0], certified_height=15)
    assert [one.first for one in unneeded_segments(kept, shipped)] == [1]
