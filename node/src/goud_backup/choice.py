"""Which node is to be worked on: all are asked at once, and ranked so that every host comes to the same answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import httpx

from goud_backup import pool
from goud_backup.errors import NoCandidate
from goud_node.errors import ConfigurationError

# The leader only when nobody else can: a checkpoint and the reading of it cost the writes something.
_RANKS: Final = {"follower": 0, "observer": 1, "proposer": 2}
_LEVEL: Final = 8
"""Lags up to this are equal: they change from one moment to the next, and hosts do not ask at the same one."""
_SECONDS: Final = httpx.Timeout(5.0, connect=2.0)


@dataclass(frozen=True)
class Candidate:
    """A node and its public interface."""

    name: str
    url: str


@dataclass(frozen=True)
class Standing:
    """What a candidate answered; `why` says why it is fit or not."""

    name: str
    url: str
    fit: bool
    why: str
    role: str | None = None
    lag: int | None = None
    height: int | None = None

    @property
    def order(self) -> tuple[bool, int, int, str]:
        """Ascending from the best; nothing in here depends on who asks, or in which order."""
        lag = self.lag or 0
        return (not self.fit, _RANKS.get(self.role or "", len(_RANKS)), lag if lag > _LEVEL else 0, self.name)

    def document(self) -> dict[str, Any]:
        return asdict(self)


def parse(texts: Iterable[str]) -> list[Candidate]:
    """NAME=URL, several of them separated by commas. Raises ConfigurationError."""
    found: dict[str, Candidate] = {}
    for text in (part.strip() for given in texts for part in given.split(",")):
        if not text:
            continue
        name, _, url = text.partition("=")
        if not name or not url.startswith(("http://", "https://")):
            raise ConfigurationError(f"The candidate {text!r} must be NAME=URL, such as node2=http://node2:8080.")
        if name in found:
            raise ConfigurationError(f"The candidate {name} is named twice. Name each node once.")
        found[name] = Candidate(name, url.rstrip("/"))
    return list(found.values())


def ranking(candidates: Sequence[Candidate]) -> list[Standing]:
    """Ask every candidate at the same time; the best first, those that are not fit last."""
    # The environment's proxies are for the world outside, never for our own nodes.
    with httpx.Client(timeout=_SECONDS, trust_env=False) as client:
        return ranked(pool.run(lambda one: _ask(client, one), candidates, max(1, len(candidates))))


def ranked(standings: Iterable[Standing]) -> list[Standing]:
    return sorted(standings, key=lambda one: one.order)


def best(standings: Sequence[Standing], *, but: str | None = None) -> Standing:
    """The first that is fit and is not `but`. Raises NoCandidate, naming each and why."""
    for one in ranked(standings):
        if one.fit and one.name != but:
            return one
    reasons = "; ".join(f"{one.name} {'is the source of the backup' if one.fit else one.why}" for one in standings)
    raise NoCandidate(f"None of the candidates can be used: {reasons}. Mend one of these nodes, or correct its URL.")


def _ask(client: httpx.Client, candidate: Candidate) -> Standing:
    name, url = candidate.name, candidate.url
    try:
        response = client.get(f"{url}/health")
        response.raise_for_status()
        return judge(candidate, response.json())
    except httpx.HTTPStatusError as error:
        return Standing(name, url, False, f"answers {error.response.status_code}")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Standing(name, url, False, f"does not answer ({error or type(error).__name__})")
    except ValueError:
        return Standing(name, url, False, "does not answer like a node: this is no JSON")


def judge(candidate: Candidate, health: Any) -> Standing:
    """The standing of a candidate by its answer to GET /health."""
    name, url = candidate.name, candidate.url
    try:
        node_id, status, role = str(health["node_id"]), str(health["status"]), str(health["role"])
        lag, height = int(health["lag"]), int(health["chain_length"]) - 1
        if health["proposer"] == node_id:
            role = "proposer"
    except (KeyError, TypeError, ValueError):
        return Standing(name, url, False, "does not answer like a node: fields are missing")
    fit, why = True, f"is a healthy {role}, {lag} behind"
    if node_id != name:
        fit, why = False, f"answers as {node_id}: the URL is another node's"
    elif status != "healthy" or health.get("synced") is not True:
        fit, why = False, f"is {status}, {lag} behind"
    elif role not in _RANKS:
        fit, why = False, f"has the role {role}"
    return Standing(name, url, fit, why, role, lag, height)
