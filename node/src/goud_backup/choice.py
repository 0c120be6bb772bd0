"""Which node is to be worked on: all are asked at once, and ranked so that every host comes to the same answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import httpx

from goud_backup.errors import NoCandidate
from goud_node.documents import MOST_BYTES, Document, Line, Malformed, Number, read, shaped
from goud_node.errors import ConfigurationError
from goud_node.exchange import reason, request_of, whole

# The leader only when nobody else can: a checkpoint and the reading of it cost the writes something.
_RANKS: Final = {"follower": 0, "observer": 1, "proposer": 2}
_LEVEL: Final = 8
"""Lags up to this are equal: they change from one moment to the next, and hosts do not ask at the same one."""
_SECONDS: Final = httpx.Timeout(5.0, connect=2.0)
_DEADLINE: Final = 5.0
"""Seconds for all of an answer."""


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
    candidates: dict[str, Candidate] = {}
    for text in (part.strip() for option in texts for part in option.split(",")):
        if not text:
            continue
        name, _, url = text.partition("=")
        if not name or not url.startswith(("http://", "https://")):
            raise ConfigurationError(f"The candidate {text!r} must be NAME=URL, such as node2=http://node2:8080.")
        if name in candidates:
            raise ConfigurationError(f"The candidate {name} is named twice. Name each node once.")
        candidates[name] = Candidate(name, url.rstrip("/"))
    return list(candidates.values())


def ranking(candidates: Sequence[Candidate]) -> list[Standing]:
    """Ask every candidate at the same time; the best first, those that are not fit last."""
    return ranked(asyncio.run(_ask_all(candidates)))


def ranked(standings: Iterable[Standing]) -> list[Standing]:
    return sorted(standings, key=lambda standing: standing.order)


def best(standings: Sequence[Standing], *, but: str | None = None) -> Standing:
    """The first that is fit and is not `but`. Raises NoCandidate, naming each and why."""
    for standing in ranked(standings):
        if standing.fit and standing.name != but:
            return standing
    reasons = "; ".join(
        f"{standing.name} {'is the source of the backup' if standing.fit else standing.why}" for standing in standings
    )
    raise NoCandidate(f"None of the candidates can be used: {reasons}. Mend one of these nodes, or correct its URL.")


async def _ask_all(candidates: Sequence[Candidate]) -> list[Standing]:
    # The environment's proxies are for the world outside, never for our own nodes.
    async with httpx.AsyncHTTPTransport(trust_env=False) as transport:
        return await asyncio.gather(*(_ask(transport, candidate) for candidate in candidates))


async def _ask(transport: httpx.AsyncBaseTransport, candidate: Candidate) -> Standing:
    name, url = candidate.name, candidate.url
    try:
        request = request_of("GET", f"{url}/health", _SECONDS)
        response = await whole(transport, request, MOST_BYTES, _DEADLINE)
        response.raise_for_status()
        return judge(candidate, read(response.content, dict[str, Any]))
    except httpx.HTTPStatusError as error:
        return Standing(name, url, False, f"answers {error.response.status_code}")
    except httpx.TransportError as error:
        return Standing(name, url, False, f"does not answer ({reason(error)})")
    except Malformed as error:
        return Standing(name, url, False, f"does not answer like a node: {error}")


class _Health(Document):
    """What is used of the answer to GET /health."""

    node_id: Line
    status: Line
    role: Line
    proposer: Line | None
    lag: Number
    chain_length: Number
    synced: bool


def judge(candidate: Candidate, document: object) -> Standing:
    """The standing of a candidate by its answer to GET /health."""
    name, url = candidate.name, candidate.url
    try:
        health = shaped(document, _Health)
    except Malformed as error:
        return Standing(name, url, False, f"does not answer like a node: {error}")
    role = "proposer" if health.proposer == health.node_id else health.role
    fit, why = True, f"is a healthy {role}, {health.lag} behind"
    if health.node_id != name:
        fit, why = False, f"answers as {health.node_id}: the URL is another node's"
    elif health.status != "healthy" or not health.synced:
        fit, why = False, f"is {health.status}, {health.lag} behind"
    elif role not in _RANKS:
        fit, why = False, f"has the role {role}"
    return Standing(name, url, fit, why, role, health.lag, health.chain_length - 1)
