"""Whether this node's clock may become the chain's time: only while a majority of the validators has about the same.

A block that is ordered is final, and every later one is stamped after it. So a wrong clock must be noticed before the
commit, by the clocks that peers send with their status.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from goud_node.chain.genesis import Genesis
from goud_node.errors import NotLeader

TOLERANCE_MS: Final = 5_000
FRESH_SECONDS: Final = 60.0


class ClockRefused(NotLeader):
    """This node may not propose: its clock is not that of a majority, or no majority has shown its own."""

    code = "clock"


@dataclass(frozen=True, slots=True)
class Reading:
    """A peer's clock in Unix milliseconds, when this machine's running clock showed `at` seconds.

    None when the peer's release does not send its clock.
    """

    clock_ms: int | None
    at: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the readings say of this node's clock. `unread`: too few are known, which is not a sign of a wrong clock."""

    state: Literal["right", "wrong", "unread"]
    detail: str
    enforced: bool = True

    @property
    def may_propose(self) -> bool:
        return self.state == "right" or not self.enforced


def alone() -> Verdict:
    """For a node that orders by itself, or never proposes."""
    return Verdict("right", "No other clock is asked.")


def judge(genesis: Genesis, node_id: str, own_ms: int, readings: Mapping[str, Reading], now: float) -> Verdict:
    """Compare `own_ms`, the validator's own clock, with the readings of the others; `now` is the running clock."""
    recent_peers = {name for name, reading in readings.items() if now - reading.at <= FRESH_SECONDS}
    recent_validators = [
        validator.node_id
        for validator in genesis.validators
        if validator.node_id != node_id and validator.node_id in recent_peers
    ]
    silent_validators = [name for name in recent_validators if readings[name].clock_ms is None]
    differences = {
        name: own_ms - clock_ms
        for name in recent_validators
        if (clock_ms := _current_reading(readings[name], now)) is not None
    }
    agreement_count = 1 + sum(abs(difference) <= TOLERANCE_MS for difference in differences.values())
    enforced = not silent_validators
    if agreement_count >= genesis.quorum:
        return Verdict(
            "right", f"{agreement_count} of {len(genesis.validators)} validators have this node's time.", enforced
        )
    hint = (
        "" if enforced else f" It only warns, as the release of {', '.join(silent_validators)} does not send its clock."
    )
    if 1 + len(differences) < genesis.quorum:
        return Verdict(
            "unread",
            f"The clocks of {1 + len(differences)} of {len(genesis.validators)} validators are known, a majority is "
            f"{genesis.quorum}: this node does not propose. Check the peer network.{hint}",
            enforced,
        )
    summary = ", ".join(
        f"{milliseconds / 1000:+.1f} s from {name}" for name, milliseconds in sorted(differences.items())
    )
    return Verdict(
        "wrong",
        f"This node's clock differs from a majority's by more than {TOLERANCE_MS // 1000} s ({summary}): it does "
        f"not propose until the clock is put right. Check the time service of this machine.{hint}",
        enforced,
    )


def _current_reading(reading: Reading, now: float) -> float | None:
    """What the peer's clock shows by now; None when its release does not say."""
    return None if reading.clock_ms is None else reading.clock_ms + (now - reading.at) * 1000
