"""Choosing the node that is worked on, where every host has the same timer and one of them is to act."""

from __future__ import annotations

from collections.abc import Sequence

from goud_backup.cli import output
from goud_backup.cli.options import AsJson, Candidates
from goud_node.errors import ConfigurationError

NOT_CHOSEN = "not chosen"
_COLUMNS = ("name", "chosen", "fit", "role", "lag", "height", "why")


def choose(candidate: Candidates = None, as_json: AsJson = False) -> None:
    """Rank the candidates as `create` and `ship` do; the first is the one to back up. Ends with 23 when none can be.

    Healthy followers come first, by name; then observers; the proposer is the last resort. A node that does not answer
    or is not healthy is never chosen. Lags of a few blocks count as none, so that hosts that ask a moment apart agree.
    """
    from goud_backup import choice  # noqa: PLC0415  # an HTTP client takes a tenth of a second to import

    standings = choice.ranking(choice.parse(candidate or ()))
    if not standings:
        raise ConfigurationError("There is nobody to choose from: give --candidate NAME=URL for each node.")
    rows = [{**standing.document(), "chosen": standing is standings[0] and standing.fit} for standing in standings]
    output.rows("candidates", _COLUMNS, rows, as_json=as_json)
    choice.best(standings)


def is_chosen(texts: Sequence[str] | None, node: str | None, *, but: str | None = None, as_json: bool = False) -> bool:
    """Whether `node` is the one to work on; tells who is and why when it is not. True without candidates.

    `but` is never chosen. Raises NoCandidate; ConfigurationError when `node` is no candidate, so could never be chosen.
    """
    if not any(text.strip(", ") for text in texts or ()):
        return True
    from goud_backup import choice  # noqa: PLC0415  # as above

    candidates = choice.parse(texts or ())
    names = [candidate.name for candidate in candidates]
    if node not in names:
        mistake = "--node is not given" if node is None else f"{node} is not among them"
        raise ConfigurationError(
            f"The candidates are {', '.join(names)}, but {mistake}: this host would never be chosen. Give --node."
        )
    standings = choice.ranking(candidates)
    chosen = choice.best(standings, but=but)
    if chosen.name == node:
        return True
    rows = [standing.document() for standing in standings]
    tell(node, f"{chosen.name} {chosen.why}", as_json=as_json, chosen=chosen.name, candidates=rows)
    return False


def tell(node: str | None, why: str, *, as_json: bool, **more: object) -> None:
    """The result of a run that had nothing to do here; it names itself, so that it is taken for no other result."""
    output.emit(NOT_CHOSEN, {"event": NOT_CHOSEN, "node": node, "why": why, **more}, as_json=as_json)
