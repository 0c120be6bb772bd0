"""How old garbage surely is: no clock makes it older than it is, and restarts do not keep it young."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goud_backup.repository import marks
from goud_backup.repository.marks import Clock, Mark
from goud_backup.targets import Target

HOUR = 3600.0
DAY = 24 * HOUR


@dataclass
class Host:
    """`ahead`: how wrong its clock is; it was started `up` seconds before the first run that it does."""

    name: str
    ahead: float
    up: float
    boots: int = 0

    def clock(self, true: float, *, independent: bool) -> Clock:
        wall = true + self.ahead
        return Clock(wall, true + self.up, f"{self.name}{self.boots}", true if independent else wall, independent)

    def restart(self, true: float, ahead: float) -> None:
        self.boots, self.ahead, self.up = self.boots + 1, ahead, -true


skews = st.floats(-400 * DAY, 400 * DAY)
runs = st.lists(st.tuples(st.floats(0, 3 * DAY), st.integers(0, 2), st.booleans(), skews), min_size=1, max_size=12)
hosts = st.tuples(skews, skews, skews).map(
    lambda ahead: [Host(name, wrong, 500.0) for name, wrong in zip("abc", ahead, strict=True)]
)


def aged(
    hosts: Sequence[Host], runs: Sequence[tuple[float, int, bool, float]], *, independent: bool
) -> tuple[float, float]:
    """What is believed of its age after these runs of a prune, and its true age."""
    true = 1_000_000.0
    began = true
    mark = marks.mark(hosts[0].clock(true, independent=independent))
    believed = 0.0
    for passed, number, restarted, ahead in runs:
        true += passed
        host = hosts[number]
        if restarted:
            host.restart(true, ahead)
        now = host.clock(true, independent=independent)
        believed = mark.age(now)
        mark = mark.seen(now)
    return believed, true - began


@given(hosts, runs)
def test_a_store_with_its_own_time_is_believed_and_no_host(
    hosts: list[Host], runs: list[tuple[float, int, bool, float]]
) -> None:
    believed, true = aged(hosts, runs, independent=True)
    assert believed == pytest.approx(true, abs=0.01)


@given(skews, runs)
def test_a_directory_of_one_host_never_ages_faster_than_time(
    ahead: float, runs: list[tuple[float, int, bool, float]]
) -> None:
    """Whatever its clock says after each restart."""
    host = Host("a", ahead, 500.0)
    believed, true = aged([host, host, host], runs, independent=False)
    assert 0 <= believed <= true + 0.01


def test_a_host_that_restarts_every_day_gets_there() -> None:
    host, true = Host("a", 0.0, 0.0), 0.0
    mark = marks.mark(host.clock(true, independent=False))
    for _ in range(3):
        true += DAY - 6 * HOUR
        host.restart(true, 0.0)
        true += 6 * HOUR
        now = host.clock(true, independent=False)
        age, mark = mark.age(now), mark.seen(now)
    assert age == 18 * HOUR, "what this boot alone proves, added up"


def test_two_hosts_on_one_directory_believe_the_file_system(target: Target) -> None:
    """As at a file server: host B's clock is two days ahead of it."""
    mark = marks.mark(Clock(1_000_000, 500, "a", 5_000))
    assert mark.age(Clock(1_000_060 + 2 * DAY, 100 * DAY, "b", 5_060)) == 60
    assert target.now() == pytest.approx(marks.clock(target).wall, abs=120)


def test_without_a_common_clock_the_age_begins_anew() -> None:
    old = Mark(1_000_000, 500, "a")  # of a release that did not note the store's time
    now = Clock(1_000_000 + 9 * DAY, 9 * DAY, "b", 1_000_000 + 9 * DAY)
    assert old.age(now) == 0
    assert old.seen(now).age(Clock(now.wall + HOUR, now.uptime + HOUR, "b", now.store)) == HOUR
    assert old.age(Clock(1_000_000 + HOUR, 500 + HOUR, "a")) == HOUR


def test_they_come_back_and_a_former_release_reads_them(target: Target) -> None:
    stored = {"objects/aa/x": Mark(1.5, 2.5, "a", 3.5, 4.5), "trash/y": Mark(1.0, 2.0, "b", None, 0.0)}
    assert marks.load(target) == {}
    marks.store(target, stored)
    assert marks.load(target) == stored
    target.put("marks.json", b'{"format":"goud-backup/1","marks":{"objects/aa/x":[1.5,2.5,"a"]}}')
    assert marks.load(target) == {"objects/aa/x": Mark(1.5, 2.5, "a")}
