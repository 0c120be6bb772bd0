"""Restore: stage beside the live data, prove it, and only then swap. Any failure leaves the live data as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from goud_backup import replay, source, staging, swap, walk
from goud_backup.codec.sealing import Opener
from goud_backup.errors import Damaged, NotVerified, SourceError
from goud_backup.plan import How, Plan, check_manifest
from goud_backup.progress import Progress, Silent
from goud_backup.repository import signed
from goud_backup.repository.history import History, Parting, Source, all_of, anchors_of
from goud_backup.repository.manifest import Manifest, check_certificates
from goud_backup.repository.repository import Repository
from goud_backup.settings import SECRETS_FOLDER
from goud_node.chain.genesis import Genesis
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Ledger
from goud_node.chain.proof import Proven
from goud_node.errors import GoudError
from goud_node.store import SCHEMA_VERSION, RocksStore, durable, marker, schema


@dataclass(frozen=True)
class Restored:
    """What is live now; `kept` is where the data from before is.

    The signatures of `spared` blocks were not checked now, because a recorded deep verification has.
    """

    height: int
    tip_hash: str
    how: str
    backup: str | None
    kept: str | None
    spared: int = 0

    def document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Tools:
    """What every step needs. `secrets_to` is a directory for the secrets that were backed up, None to leave them.

    `key`, a validator's, signs the record of a deep verification; None leaves it out.
    """

    opener: Opener | None
    workers: int = 2
    progress: Progress = field(default_factory=Silent)
    secrets_to: Path | None = None
    key: SigningKey | None = None


def restore(repository: Repository, plan: Plan, data_dir: Path, tools: Tools) -> Restored:
    """Make `data_dir`, whose node is stopped, hold what the plan says. Raises before anything live is touched."""
    genesis = repository.config.genesis
    with swap.exclusive(data_dir) as folder:
        swap.require_chain(data_dir, genesis.chain_id)
        staging.require_space(data_dir, plan.space_bytes)
        proven = prepare(repository, plan, folder, tools, signed.Trust(repository))
        return put_in_place(data_dir, folder, genesis, described(proven, plan.how, _id(plan.manifest)), tools)


def put_in_place(data_dir: Path, folder: Path, genesis: Genesis, restored: Restored, tools: Tools) -> Restored:
    """Swap the proven database in the staging directory `folder` with the live one, and so the secrets beside it."""
    database = marker.database_path(folder)
    with staging.writing(data_dir):
        durable.adopt_all(database, data_dir)
    staging.make_durable(database, tools.workers)
    former = swap.swap(data_dir, database, genesis.chain_id, tools.secrets_to)
    shutil.rmtree(folder, ignore_errors=False)
    return Restored(**{**asdict(restored), "kept": None if former is None else str(former)})


def described(proven: Proven, how: How, backup: str | None = None) -> Restored:
    """What a proven database becomes when it is put in place."""
    return Restored(proven.height, proven.tip_hash.hex(), how.value, backup, None, proven.spared)


def prepare(
    repository: Repository, plan: Plan, folder: Path, tools: Tools, trust: signed.Trust | None = None
) -> Proven:
    """A proven database in `folder`, nothing live involved. Every signature is checked where no records are trusted.

    Raises what damage raises.
    """
    manifest, height = fetch(repository, plan, folder, tools)
    return make_ready(marker.database_path(folder), repository.config.genesis, tools, manifest, height, trust=trust)


def begin_again(folder: Path, genesis: Genesis, tools: Tools) -> Restored:
    """A proven database in `folder` of nothing but the genesis block."""
    database = marker.database_path(folder)
    replay.rebuild(database, genesis, (), 0, tools.progress)
    return described(make_ready(database, genesis, tools, None, 0), How.REINITIALIZE)


def fetch(repository: Repository, plan: Plan, folder: Path, tools: Tools) -> tuple[Manifest | None, int | None]:
    """The plan's database in `folder`, every object and block checked on the way but not the whole.

    Returns what `make_ready` is to compare it with. Raises what damage raises.
    """
    genesis = repository.config.genesis
    database = marker.database_path(folder)
    manifest = plan.manifest
    if manifest is not None:
        check_manifest(manifest)
        check_certificates(manifest, genesis)
        base = folder if plan.how is not How.REBUILD else folder / "base"
        durable.make_folder(base)
        _stage_base(repository, manifest, base, tools)
        if plan.how is How.BACKUP:
            return manifest, None
        check_facts(marker.database_path(base), genesis, manifest)
        if plan.how is How.REBUILD:
            height = _rebuild_from(plan, base, database, genesis, tools)
            if (base / SECRETS_FOLDER).is_dir():
                (base / SECRETS_FOLDER).rename(folder / SECRETS_FOLDER)
            shutil.rmtree(base)
            return None, height
    height = plan.height or 0
    rows = replay.rows_of_segments(repository, plan.segments, tools.opener, height)
    if manifest is None:
        replay.rebuild(database, genesis, rows, height, tools.progress)
        return None, height
    replay.extend(database, genesis, rows, height, tools.progress)
    replay.check_tip(database, genesis, height, {manifest.chain.height: manifest.chain.tip_hash})
    return None, height


def make_ready(
    database: Path,
    genesis: Genesis,
    tools: Tools,
    manifest: Manifest | None,
    height: int | None = None,
    *,
    trust: signed.Trust | None = None,
) -> Proven:
    """Walk every key and verify every block of the staged database; compare with the manifest or the height."""
    proven = walk.prove(database, genesis, tools.workers, tools.progress, trust)
    if manifest is not None:
        walk.compare(proven, manifest)
    if height is not None and proven.height != height:
        raise NotVerified(f"The restored chain ends at block {proven.height}; it should end at {height}.")
    if manifest is not None and manifest.chain.schema != SCHEMA_VERSION:
        schema.open_database(database, schema.SchemaPolicy.REFUSE).close()
    return proven


def check_facts(database: Path, genesis: Genesis, manifest: Manifest) -> None:
    """Compare what the database says of itself with the manifest, before anything is appended to it."""
    with source.examining(database, genesis) as examination:
        facts = examination.facts
    actual = (facts.height, facts.tip_hash.hex(), facts.certified_height, facts.keys)
    declared = (manifest.chain.height, manifest.chain.tip_hash, manifest.chain.certified_height, dict(manifest.keys))
    if actual != declared:
        raise NotVerified(
            f"Backup {manifest.id} is not what its manifest says: it has {actual}, the manifest {declared}."
        )


class _Live:
    """The chain in an open database, as something that is compared with what is stored."""

    def __init__(self, store: RocksStore, genesis: Genesis) -> None:
        self._ledger = Ledger(store, genesis)

    def reach(self) -> int:
        return self._ledger.height

    def digest(self, height: int) -> str | None:
        block = self._ledger.block(height)
        return None if block is None else block.hash.hex()


def plan_document(
    repository: Repository, plan: Plan, data_dir: Path, opener: Opener | None = None, node: Source | None = None
) -> dict[str, Any]:
    """The plan, with what is live now and the space there is. `node` is the live one when it runs."""
    genesis = repository.config.genesis
    live = live_document(data_dir, genesis, plan.height, lambda: _history(repository, plan, opener), node)
    return {
        "repository": repository.url,
        "chain": repository.config.chain_id,
        "data_dir": str(data_dir),
        **plan.document(),
        **live,
    }


def _history(repository: Repository, plan: Plan, opener: Opener | None) -> History:
    """What is known of the history that the plan brings back."""
    manifest = plan.manifest
    if manifest is not None and manifest.id in repository.abandoned_backups():
        return History(repository, anchors_of(manifest), plan.segments, opener)
    return all_of(repository, opener)


def live_document(
    data_dir: Path,
    genesis: Genesis,
    height: int | None,
    history: Callable[[], History] | None = None,
    node: Source | None = None,
) -> dict[str, Any]:
    """What is live now, what of it a restore to `height` would lose, and the space there is.

    Without a `history`, or where nothing names the blocks in question, the loss is a range: heights alone do not say
    whether the two chains are one.
    """
    if not data_dir.is_dir():
        raise SourceError(f"The data directory {data_dir} does not exist. Mount the volume or correct --data-dir.")
    document: dict[str, Any] = {
        "live_height": None,
        "live_problem": None,
        "live_blocks_not_in_the_restore": None,
        "live_blocks_not_in_the_restore_at_least": None,
        "histories_part_after": None,
        "free_bytes": shutil.disk_usage(data_dir).free,
    }
    database = marker.database_path(data_dir)
    try:
        if node is not None:
            return document | _loss(node, height, history)
        if database.exists():
            with walk.opened(database) as store:
                return document | _loss(_Live(store, genesis), height, history)
    except GoudError as error:
        document["live_problem"] = str(error)
    return document


def _loss(live: Source, height: int | None, history: Callable[[], History] | None) -> dict[str, Any]:
    reach = live.reach()
    if height is None:
        return {"live_height": reach}
    parting = Parting(0, None) if history is None else history().parting(live)
    split = None if parting.differs is None else parting.shared
    common = min(height, reach) if parting.differs is None else parting.differs - 1
    return {
        "live_height": reach,
        "live_blocks_not_in_the_restore": reach - min(parting.shared, height),
        "live_blocks_not_in_the_restore_at_least": reach - min(common, height),
        "histories_part_after": split,
    }


def _stage_base(repository: Repository, manifest: Manifest, folder: Path, tools: Tools) -> None:
    staging.stage(
        repository,
        manifest,
        folder,
        tools.opener,
        workers=tools.workers,
        progress=tools.progress,
        secrets=tools.secrets_to is not None,
    )
    path = folder / marker.MARKER
    marked = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
    if marked != repository.config.chain_id:
        shown = f"of chain {marked[:100]!r}" if marked else "of no chain"
        raise Damaged(f"Backup {manifest.id} carries the marker {shown}, not of {repository.config.chain_id}.")


def _rebuild_from(plan: Plan, base: Path, database: Path, genesis: Genesis, tools: Tools) -> int:
    below = marker.database_path(base)
    height = plan.height
    if height is None:
        creation = datetime.now(UTC) if plan.manifest is None else plan.manifest.created_at
        creation_ms = int(creation.timestamp() * 1000)
        height = replay.height_at(below, genesis, plan.to_ms or 0, creation_ms)
    with walk.opened(below) as store:
        replay.rebuild(database, genesis, replay.rows_of_database(store, height), height, tools.progress)
    return height


def _id(manifest: Manifest | None) -> str | None:
    return None if manifest is None else manifest.id
