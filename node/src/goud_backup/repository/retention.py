"""Which backups stay. Pure: the same input gives the same answer, and no clock is asked.

Ages are counted in days (weeks, months) on which backups were made, not against today's date: a clock that jumps adds
one such day, it does not make every other backup old.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from goud_backup.repository.segments import Reference, runs


@dataclass(frozen=True)
class Policy:
    """`days`: every backup of the last so many days. The others: the newest one of the last so many, each."""

    days: int = 30
    last: int = 1
    daily: int = 0
    weekly: int = 0
    monthly: int = 0


@dataclass(frozen=True)
class Candidate:
    """`whole`: every object is in the store and no verification has found damage. `proven`: a deep one was passed.

    `abandoned`: it is of a history that the chain no longer follows (see forks).
    """

    id: str
    sequence: int
    created: datetime
    height: int
    certified_height: int
    kept: bool
    whole: bool
    proven: bool
    abandoned: bool = False


def reasons_to_keep(
    candidates: Iterable[Candidate], policy: Policy, segments: Sequence[Reference] = ()
) -> dict[str, list[str]]:
    """Why each backup stays, by id; an empty list means that it may go.

    Backups of an abandoned history never stand for the present one, which `segments` belong to; they stay as long as
    the days they were made on.
    """
    newest_first = sorted(candidates, key=lambda one: one.sequence, reverse=True)
    present = [one for one in newest_first if not one.abandoned]
    whole = [one for one in present if one.whole]
    if not whole:
        # Nothing is known to be good, so anything may turn out to be the best there is.
        return {one.id: ["no backup is known to be good"] for one in newest_first}
    reasons: dict[str, list[str]] = {one.id: [] for one in newest_first}
    for one, reason in [*_always(present, whole), *_marked(newest_first), *_by_day(newest_first, policy),
                        *_by_policy(whole, policy)]:  # fmt: skip
        reasons[one.id].append(reason)
    for one in _needed(present, reasons, segments):
        reasons[one.id].append("the segments after it need it")
    return reasons


def _always(newest_first: Sequence[Candidate], whole: Sequence[Candidate]) -> Iterator[tuple[Candidate, str]]:
    yield newest_first[0], "newest"
    yield whole[0], "last good"
    # A node that lagged may have been the source of the newest one.
    yield max(whole, key=lambda one: (one.height, one.sequence)), "highest"
    for one in [one for one in whole if one.proven][:1]:
        yield one, "last proven by a restore"


def _marked(newest_first: Sequence[Candidate]) -> Iterator[tuple[Candidate, str]]:
    return ((one, "marked keep") for one in newest_first if one.kept)


def _by_day(newest_first: Sequence[Candidate], policy: Policy) -> Iterator[tuple[Candidate, str]]:
    days = recent_days(newest_first, policy)
    return (
        (one, f"within the last {policy.days} days with backups") for one in newest_first if day(one.created) in days
    )


def recent_days(candidates: Iterable[Candidate], policy: Policy) -> set[str]:
    """The last days on which backups were made, as many as the policy keeps whole."""
    newest_first = sorted(candidates, key=lambda one: one.sequence, reverse=True)
    return set(_labels(newest_first, day)[: policy.days])


def _by_policy(whole: Sequence[Candidate], policy: Policy) -> Iterator[tuple[Candidate, str]]:
    for one in whole[: policy.last]:
        yield one, f"one of the last {policy.last}"
    for number, label, name in (
        (policy.daily, day, "daily"),
        (policy.weekly, _week, "weekly"),
        (policy.monthly, _month, "monthly"),
    ):
        for wanted in _labels(whole, label)[:number]:
            yield next(one for one in whole if label(one.created) == wanted), name


def unneeded_segments(kept: Iterable[Candidate], segments: Iterable[Reference]) -> list[Reference]:
    """Segments that lie wholly below what every whole backup of their history holds, certificates included."""
    lowest = min((one.certified_height for one in kept if one.whole and not one.abandoned), default=0)
    return sorted((one for one in segments if one.last <= lowest), key=lambda one: one.key)


def _needed(
    newest_first: Sequence[Candidate], reasons: dict[str, list[str]], segments: Sequence[Reference]
) -> list[Candidate]:
    """For each run of segments that no kept backup leads into, and none above holds: the newest backup that does."""
    # A damaged backup that stays for another reason leads nowhere.
    kept = [one for one in newest_first if reasons[one.id] and one.whole]
    lowest = min((one.certified_height for one in kept), default=0)
    needed = []
    for first, last in runs(segments):
        if first == 1 or last <= lowest:
            continue
        if any(_leads_into(one, first, last) for one in kept) or any(one.height >= last for one in kept):
            continue
        leading = [one for one in newest_first if one.whole and _leads_into(one, first, last)]
        needed += leading[:1]
    return needed


def _leads_into(one: Candidate, first: int, last: int) -> bool:
    return first - 1 <= one.certified_height < last


def _labels(newest_first: Sequence[Candidate], label: Callable[[datetime], str]) -> list[str]:
    """Each label once, in the order of the newest backup that has it."""
    return list(dict.fromkeys(label(one.created) for one in newest_first))


def day(when: datetime) -> str:
    """The day, as retention counts it."""
    return when.strftime("%Y-%m-%d")


def _week(when: datetime) -> str:
    year, week, _ = when.isocalendar()
    return f"{year}-{week:02d}"


def _month(when: datetime) -> str:
    return when.strftime("%Y-%m")
