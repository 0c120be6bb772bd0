"""The protocol under thousands of schedules: never two blocks at one height, nothing acknowledged lost, progress."""

from __future__ import annotations

import os
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .model import Model
from .schedules import busy

SCHEDULES = int(os.environ.get("GOUD_MODEL_SCHEDULES", "1000"))
"""Per test; the long run sets some hundred thousand."""


@settings(
    max_examples=SCHEDULES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(st.binary(min_size=64, max_size=1400))
def test_every_schedule_keeps_the_invariants(schedule: bytes) -> None:
    Model(schedule).run()


def test_long_random_schedules_keep_the_invariants() -> None:
    """Longer and more even than what hypothesis draws; a failure prints the seed."""
    for seed in range(SCHEDULES):
        schedule = random.Random(seed).randbytes(2401)  # noqa: S311  # repeatable on purpose
        try:
            Model(schedule).run()
        except AssertionError as violation:
            raise AssertionError(f"seed {seed}: {violation}") from violation


def test_what_clients_are_told_is_true() -> None:
    """Busy clients, lost answers, and nodes that stop, halt, hand over or are full: refused is never ordered."""
    for seed in range(SCHEDULES // 5):
        try:
            Model(busy(seed)).run()
        except AssertionError as violation:
            raise AssertionError(f"seed {seed}: {violation}") from violation
