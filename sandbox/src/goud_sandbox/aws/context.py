"""What moto's models need to know of the sandbox. moto keeps its state per process, and so is this: one account."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from goud_sandbox.settings import Settings

ACCOUNT = "123456789012"


@dataclass(frozen=True)
class Key:
    """An access key."""

    id: str
    secret: str


def _no_console(_: str) -> str:
    return ""


def _no_keys(_: str) -> dict[str, str]:
    return {}


def _no_lie(_: str) -> bool:
    return False


def _no_reboot(_: str) -> None:
    return None


@dataclass
class Context:
    """The sandbox's settings, clock and hands.

    ``console`` and ``host_keys`` look into a machine, ``reboot`` asks its system to reboot, ``lie_device`` tells
    whether the next growth of a volume is to be reported and not done.
    """

    settings: Settings = field(default_factory=Settings)
    ahead: timedelta = timedelta(0)
    console: Callable[[str], str] = _no_console
    host_keys: Callable[[str], dict[str, str]] = _no_keys
    reboot: Callable[[str], None] = _no_reboot
    lie_device: Callable[[str], bool] = _no_lie

    def now(self) -> datetime:
        """The account's clock: the host's, and as far ahead as it was moved."""
        return datetime.now(UTC) + self.ahead


current = Context()


def use(context: Context) -> None:
    """Make this the context of every model in the process."""
    vars(current).update(vars(context))
