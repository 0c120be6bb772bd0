"""One drill, from an empty folder to the answers of a node that serves what was restored."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from goud_backup import plan as plans
from goud_backup import restore, staging
from goud_backup.drill.child import serving
from goud_backup.drill.report import Report
from goud_backup.drill.room import room
from goud_backup.errors import NodeFailed, NoSuchBackup, NotVerified
from goud_backup.plan import Plan
from goud_backup.repository import rot, signed
from goud_backup.repository.repository import Repository
from goud_node.chain.proof import Proven
from goud_node.store import durable, marker


class Node(Protocol):
    """A running node's public interface."""

    def get(self, path: str) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Expected:
    """A block that must be served; `said_by` is what in the repository says so."""

    height: int
    hash: str
    said_by: str


def source_of(repository: Repository, backup: str) -> str | None:
    """The node that a backup was made from; None when nothing says so."""
    try:
        return repository.find(backup).source.get("node") or None
    except NoSuchBackup:
        if backup != "latest" or not repository.segments():
            raise
        return None


def perform(repository: Repository, backup: str, scratch: Path, tools: restore.Tools, report: Report) -> None:
    """Restore, prove, serve, ask, and note the success beside the backup. Raises what is wrong; `report` has the rest.

    The same plan and the same code as a restore, except that nothing live is involved and the node is a throw-away.
    """
    report.chain = repository.config.chain_id
    with room(scratch) as folder:
        plan = plans.make(repository, plans.Wish(backup), tools.opener)
        _describe(report, repository, plan)
        expected = expectations(repository, plan)
        proven = _proof(repository, plan, folder / "data", tools, report)
        height, tip = proven.height, proven.tip_hash.hex()
        report.height, report.tip_hash = height, tip
        if height != expected[-1].height:
            raise NotVerified(f"The restored chain ends at block {height}, not at {expected[-1].height}.")
        _compare(expected, height, {height: tip}, "The restored chain")
        _serve(repository, folder, expected, report)
    if plan.manifest is not None:
        # A part of an object that this backup does not need may still be wrong, and be needed by another.
        damaged = rot.remaining(repository, plan.manifest.id)
        repository.put_check(plan.manifest.id, ok=True, level="deep", damaged=damaged)
    signed.write(repository, proven, tools.key)


def _describe(report: Report, repository: Repository, plan: Plan) -> None:
    report.how, report.segments, report.bytes = plan.how.value, len(plan.segments), plan.fetch_bytes
    newest_ms = repository.segment_header(plan.segments[-1]).last_ms if plan.segments else None
    manifest = plan.manifest
    if manifest is not None:
        report.backup = {
            "id": manifest.id,
            "created": manifest.created,
            "height": manifest.chain.height,
            "tip_hash": manifest.chain.tip_hash,
            "node": manifest.source.get("node", ""),
        }
        age = (report.started - manifest.created_at).total_seconds()
        report.recovery_point["backup_age_seconds"] = round(age, 3)
        newest_ms = manifest.chain.tip_ms if newest_ms is None else newest_ms
    if newest_ms is not None:
        age = max(0.0, report.started.timestamp() - newest_ms / 1000)  # a wrong clock may have stamped it ahead
        report.recovery_point |= {"timestamp_ms": newest_ms, "age_seconds": round(age, 3)}


def expectations(repository: Repository, plan: Plan) -> list[Expected]:
    """What the repository itself says of the chain, before anything of it is read: the tip is the last."""
    blocks = []
    if plan.manifest is not None:
        chain = plan.manifest.chain
        blocks.append(Expected(chain.height, chain.tip_hash, f"the manifest of {plan.manifest.id}"))
    if plan.segments:
        header = repository.segment_header(plan.segments[-1])
        blocks.append(Expected(header.last, header.last_hash, f"the header of {plan.segments[-1].key}"))
    return blocks


def _proof(repository: Repository, plan: Plan, folder: Path, tools: restore.Tools, report: Report) -> Proven:
    genesis = repository.config.genesis
    with staging.writing(folder):
        folder.mkdir()
    staging.require_space(folder, plan.space_bytes)
    with report.phase("fetch"):
        manifest, height = restore.fetch(repository, plan, folder, tools)
        if plan.manifest is not None:
            staging.check_secrets(repository, plan.manifest, tools.opener)
    with report.phase("prove"):
        return restore.make_ready(marker.database_path(folder), genesis, tools, manifest, height)


def _serve(repository: Repository, folder: Path, expected: list[Expected], report: Report) -> None:
    genesis = repository.config.genesis
    with ExitStack() as stack:
        with report.phase("start"):
            durable.replace(folder / "data" / marker.MARKER, f"{genesis.chain_id}\n".encode())
            node = stack.enter_context(serving(folder, genesis))
        with report.phase("answer"):
            ask(node, expected, report)
        node.stop()


def ask(node: Node, expected: list[Expected], report: Report) -> None:
    """What is served must be what the repository says. Raises NotVerified, NodeFailed."""
    try:
        health = node.get("/health")
        chain, tip = str(health["chain_id"]), health["latest_block"]
        height, hashes = int(tip["height"]), {int(tip["height"]): str(tip["hash"])}
        hashes |= {block.height: str(node.get(f"/api/blocks/{block.height}")["hash"]) for block in expected}
    except (KeyError, TypeError, ValueError) as error:
        raise NodeFailed(f"The throw-away node answers in a way that is not known here: {error!r}.") from error
    if chain != report.chain:
        raise NotVerified(f"The throw-away node serves the chain {chain}, not {report.chain}.")
    _compare(expected, height, hashes, "What the throw-away node serves")
    report.compared_with = [
        {"height": block.height, "hash": block.hash, "said_by": block.said_by} for block in expected
    ]


def _compare(expected: list[Expected], height: int, hashes: dict[int, str], subject: str) -> None:
    """Raises NotVerified, naming the first difference.

    More than was restored is no difference: a node that orders alone may have ordered a block that it had not stored
    yet when the checkpoint was made, and stores it when it starts.
    """
    top = expected[-1]
    if height < top.height:
        raise NotVerified(f"{subject} ends at block {height}; {top.said_by} says {top.height}.")
    for block in expected:
        digest = hashes.get(block.height, block.hash)
        if digest != block.hash:
            raise NotVerified(f"{subject} has block {block.height} as {digest}; {block.said_by} says {block.hash}.")
