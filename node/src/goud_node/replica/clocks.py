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
    """What the readings say of this node's clock. `unread`: too few are known, which is no sign of a wrong clock."""

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
    others = [v.node_id for v in genesis.validators if v.node_id != node_id and v.node_id in readings]
    silent = [name for name in others if readings[name].clock_ms is None]
    ahead = {name: own_ms - shown for name in others if (shown := _present(readings[name], now)) is not None}
    near = 1 + sum(abs(difference) <= TOLERANCE_MS for difference in ahead.values())
    enforced = not silent
    if near >= genesis.quorum:
        return Verdict("right", f"{near} of {len(genesis.validators)} validators have this node's time.", enforced)
    hint = "" if enforced else f" It only warns, as the release of {', '.join(silent)} does not send its clock."
    if 1 + len(ahead) < genesis.quorum:
        return Verdict(
            "unread",
            f"The clocks of {1 + len(ahead)} of {len(genesis.validators)} validators are known, a majority is "
            f"{genesis.quorum}: this node does not propose. Check the peer network.{hint}",
            enforced,
        )
    differences = ", ".join(f"{ms / 1000:+.1f} s from {name}" for name, ms in sorted(ahead.items()))
    return Verdict(
        "wrong",
        f"This node's clock differs from a majority's by more than {TOLERANCE_MS // 1000} s ({differences}): it does "
        f"not propose until the clock is put right. Check the time service of this machine.{hint}",
        enforced,
    )


def _present(reading: Reading, now: float) -> float | None:
    """What the peer's clock shows by now; None when that is not known any more."""
    age = now - reading.at
    return None if reading.clock_ms is None or age > FRESH_SECONDS else reading.clock_ms + age * 1000
