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
    newest_first = sorted(candidates, key=lambda backup: backup.sequence, reverse=True)
    present = [backup for backup in newest_first if not backup.abandoned]
    whole = [backup for backup in present if backup.whole]
    if not whole:
        # Nothing is known to be good, so anything may turn out to be the best there is.
        return {backup.id: ["no backup is known to be good"] for backup in newest_first}
    reasons: dict[str, list[str]] = {backup.id: [] for backup in newest_first}
    for backup, reason in [*_always(present, whole), *_by_mark(newest_first), *_by_day(newest_first, policy),
                        *_by_policy(whole, policy)]:  # fmt: skip
        reasons[backup.id].append(reason)
    for backup in _bases(present, reasons, segments):
        reasons[backup.id].append("the segments after it need it")
    return reasons


def _always(newest_first: Sequence[Candidate], whole: Sequence[Candidate]) -> Iterator[tuple[Candidate, str]]:
    yield newest_first[0], "newest"
    yield whole[0], "last good"
    # A node that lagged may have been the source of the newest one.
    yield max(whole, key=lambda backup: (backup.height, backup.sequence)), "highest"
    for backup in [backup for backup in whole if backup.proven][:1]:
        yield backup, "last proven by a restore"


def _by_mark(newest_first: Sequence[Candidate]) -> Iterator[tuple[Candidate, str]]:
    return ((backup, "marked keep") for backup in newest_first if backup.kept)


def _by_day(newest_first: Sequence[Candidate], policy: Policy) -> Iterator[tuple[Candidate, str]]:
    days = recent_days(newest_first, policy)
    return (
        (backup, f"within the last {policy.days} days with backups")
        for backup in newest_first
        if day(backup.created) in days
    )


def recent_days(candidates: Iterable[Candidate], policy: Policy) -> set[str]:
    """The last days on which backups were made, as many as the policy keeps whole."""
    newest_first = sorted(candidates, key=lambda backup: backup.sequence, reverse=True)
    return set(_labels(newest_first, day)[: policy.days])


def _by_policy(whole: Sequence[Candidate], policy: Policy) -> Iterator[tuple[Candidate, str]]:
    for backup in whole[: policy.last]:
        yield backup, f"one of the last {policy.last}"
    for number, label, name in (
        (policy.daily, day, "daily"),
        (policy.weekly, _week, "weekly"),
        (policy.monthly, _month, "monthly"),
    ):
        for period in _labels(whole, label)[:number]:
            yield next(backup for backup in whole if label(backup.created) == period), name


def unneeded_segments(backups: Iterable[Candidate], segments: Iterable[Reference]) -> list[Reference]:
    """Segments that lie wholly below what every whole backup of their history holds, certificates included."""
    lowest = min((backup.certified_height for backup in backups if backup.whole and not backup.abandoned), default=0)
    return sorted((segment for segment in segments if segment.last <= lowest), key=lambda segment: segment.key)


def _bases(
    newest_first: Sequence[Candidate], reasons: dict[str, list[str]], segments: Sequence[Reference]
) -> list[Candidate]:
    """For each run of segments that no kept backup leads into, and none above holds: the newest backup that does."""
    # A damaged backup that stays for another reason leads nowhere.
    backups = [backup for backup in newest_first if reasons[backup.id] and backup.whole]
    lowest = min((backup.certified_height for backup in backups), default=0)
    needed = []
    for first, last in runs(segments):
        if first == 1 or last <= lowest:
            continue
        if any(_leads_into(backup, first, last) for backup in backups) or any(
            backup.height >= last for backup in backups
        ):
            continue
        leading = [backup for backup in newest_first if backup.whole and _leads_into(backup, first, last)]
        needed += leading[:1]
    return needed


def _leads_into(backup: Candidate, first: int, last: int) -> bool:
    return first - 1 <= backup.certified_height < last


def _labels(newest_first: Sequence[Candidate], label: Callable[[datetime], str]) -> list[str]:
    """Each label once, in the order of the newest backup that has it."""
    return list(dict.fromkeys(label(backup.created) for backup in newest_first))


def day(when: datetime) -> str:
    """The day, as retention counts it."""
    return when.strftime("%Y-%m-%d")


def _week(when: datetime) -> str:
    year, week, _ = when.isocalendar()
    return f"{year}-{week:02d}"


def _month(when: datetime) -> str:
    return when.strftime("%Y-%m")
