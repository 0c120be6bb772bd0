"""Make a backup: objects first, then a look at every one of them in the store, then the manifest, `latest` last."""

from __future__ import annotations

import base64
import logging
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from goud_backup import source as sources
from goud_backup.codec.sealing import Sealer
from goud_backup.errors import Damaged, Missing, SecretsRefused, SourceError, TargetError
from goud_backup.identity import Cache, Identity, Known, identify
from goud_backup.progress import Progress, Silent
from goud_backup.reading import read_through
from goud_backup.repository import locks, rot
from goud_backup.repository.history import History
from goud_backup.repository.manifest import Chain, FileEntry, Manifest, Part, StoredObject, check_paths, sealed
from goud_backup.repository.recording import put_manifest
from goud_backup.repository.repository import Repository, missing_of, new_backup_id
from goud_backup.seen import Memory
from goud_backup.settings import SECRETS_FOLDER
from goud_backup.source import IMPLIED, Facts, Grown, Snapshot, Source
from goud_backup.upload import Upload, Uploader, units
from goud_node import __version__
from goud_node.errors import ConfigurationError
from goud_node.store import Family, marker
from goud_node.store.twin import data_files

_log = logging.getLogger(__name__)

_HEALING_ROUNDS: Final = 3
_PATIENCE: Final = (0.2, 0.5, 1.0, 3.0)
"""Seconds between looks at what another run stores at the same moment."""


@dataclass(frozen=True)
class Options:
    """`secrets` are files that go along, encrypted; `wait` is for the lock, in seconds.

    A `passing` source is gone after the run: of its files nothing is remembered, as no later run has them.
    """

    recipients: Sequence[str] = ()
    secrets: Sequence[Path] = ()
    cache_dir: Path = Path("/var/cache/goud-backup")
    workers: int = 2
    wait: float = 0.0
    passing: bool = False


@dataclass
class _File:
    """A file on its way: what the manifest calls it, and where its content is once that is known."""

    path: str
    file: Path
    size: int
    mode: int
    identity: Identity | None
    known: Known | None = None


@dataclass
class _Draft:
    files: list[_File]
    present: dict[str, int]
    new_objects: set[str] = field(default_factory=set)
    new_bytes: int = 0

    def objects(self) -> dict[str, StoredObject]:
        return {name: entry for file in self.files for name, entry in _content(file).objects.items()}


def create(repository: Repository, source: Source, options: Options, progress: Progress | None = None) -> Manifest:
    """A new backup of `source`. Raises Locked, OtherHistory for a source that does not continue what is stored, the
    errors of the source and of the target; nothing is half-recorded.
    """
    sealer = repository.sealer(options.recipients)
    if options.secrets and sealer is None:
        raise SecretsRefused(
            f"{repository.url} is not encrypted, so secrets may not go into it. Make an encrypted repository "
            "(`goud-backup init --recipient age1…`), or leave --secret out."
        )
    _require_names(options.secrets)
    with locks.Lock(repository.target, locks.BACKUP, "create", wait=options.wait) as lock:
        previous, sequence = repository.last_readable()
        # Before the source stands still, so that shipping meanwhile does not get ahead of it.
        memory = Memory(options.cache_dir, repository.config.id)
        known = memory.backups()
        history = History.since(repository, previous, known)
        memory.keep_backups(known)
        hints = None if options.passing else options.cache_dir
        with (
            source.open(repository.config.genesis) as snapshot,
            Cache(hints, repository.config.id, snapshot.data_dir, options.recipients) as cache,
        ):
            run = _Run(repository, snapshot, cache, sealer, options=options, progress=progress or Silent(), lock=lock)
            return run.manifest(previous, sequence + 1, history)


def _require_names(secrets: Sequence[Path]) -> None:
    """A restore writes secrets into one folder, by name: two of one name would be one."""
    names: dict[str, Path] = {}
    for secret in secrets:
        if not secret.is_file():
            raise ConfigurationError(f"The secret {secret} does not exist. Correct --secret.")
        try:
            check_paths([_secret_path(secret)])
        except ValueError as error:
            raise SecretsRefused(f"The secret {str(secret)!r} cannot be stored: {error}. Rename the file.") from error
        namesake = names.setdefault(secret.name, secret)
        if namesake is not secret:
            raise SecretsRefused(
                f"The secrets {namesake} and {secret} have one name, so a restore could bring only one of them back. "
                "Rename one of the files. Nothing was stored."
            )


def _secret_path(secret: Path) -> str:
    return f"{SECRETS_FOLDER}/{secret.name}"


class _Run:
    """One backup under way."""

    def __init__(
        self,
        repository: Repository,
        snapshot: Snapshot,
        cache: Cache,
        sealer: Sealer | None,
        *,
        options: Options,
        progress: Progress,
        lock: locks.Lock,
    ) -> None:
        self._repository = repository
        self._snapshot = snapshot
        self._cache = cache
        self._sealer = sealer
        self._options = options
        self._progress = progress
        self._lock = lock
        self._started = datetime.now(UTC)

    def manifest(self, previous: Manifest | None, sequence: int, history: History) -> Manifest:
        genesis = self._repository.config.genesis
        checked = -1 if previous is None else previous.chain.height
        with (
            sources.examining(self._snapshot.database, genesis) as examination,
            ThreadPoolExecutor(1, thread_name_prefix="read-through") as executor,
        ):
            history.require(examination)
            draft = _Draft(self._collect(), rot.present_objects(self._repository))
            self._recognise(draft)
            unread = [file for file in draft.files if file.known is None or not file.known.read]
            names, facts = {file.file.name for file in unread}, examination.facts
            implied: dict[Family, int] = {family: facts.keys[family.value] for family in IMPLIED}
            reading = executor.submit(read_through, examination.store, names, checked + 1, facts.height, implied)
            self._store(draft, facts, previous)
            reading.result()
            self._mark_read(unread)
            manifest = sealed(self._described(draft, facts, previous, sequence), self._sealer)
            look = partial(self._look_again, history, Grown(examination, self._snapshot.live), previous)
            # Before, because a host may not be able to withdraw; after, because others look before they write as well.
            look()
            put_manifest(self._repository, manifest, self._lock, look)
        self._cache.keep_only({file.identity for file in draft.files if file.identity is not None})
        return manifest

    def _look_again(self, history: History, source: Grown, previous: Manifest | None) -> None:
        """What was shipped meanwhile must be of this history; a node that lags gets a moment to catch up."""
        for pause in _PATIENCE:
            try:
                history.require_shipped_since(source, previous)
            except (SourceError, Missing):
                # Who ships withdraws what turns out to be of another history: then it is gone.
                time.sleep(pause)
            else:
                return
        history.require_shipped_since(source, previous)

    def _mark_read(self, files: Sequence[_File]) -> None:
        """Only now: a run that is cut off before leaves them stored, but not read."""
        for file in files:
            if file.identity is not None and file.known is not None:
                self._cache.put(file.identity, replace(file.known, read=True))

    def _store(self, draft: _Draft, facts: Facts, previous: Manifest | None) -> None:
        if previous is not None and facts.height < previous.chain.height:
            _log.warning(
                "the source is at height %d, the backup before at %d: a node that lags, or a restored one",
                facts.height,
                previous.chain.height,
            )
        self._upload(draft, [file for file in draft.files if file.known is None])
        self._see_everything(draft)

    def _collect(self) -> list[_File]:
        paths = [(f"{marker.DATABASE}/{file.name}", file) for file in data_files(self._snapshot.database)]
        try:
            check_paths(path for path, _ in paths)
        except ValueError as error:
            raise SourceError(
                f"{self._snapshot.database} holds a file that cannot be stored: {error}. It is none of the database's: "
                "move it away or rename it. Nothing was stored."
            ) from error
        files = [_File(path, file, *_size_and_mode(file), identify(file)) for path, file in paths]
        chain = self._snapshot.data_dir / marker.MARKER
        files.append(_File(marker.MARKER, chain, *_size_and_mode(chain), identify(chain)))
        files += [_File(_secret_path(secret), secret, *_size_and_mode(secret), identify(secret))
                  for secret in self._options.secrets]  # fmt: skip
        return files

    def _recognise(self, draft: _Draft) -> None:
        """Take what is known and still in the store; anything else is read again."""
        for file in draft.files:
            known = self._cache.get(file.identity) if file.identity is not None else None
            if known is not None and not missing_of(known.objects, draft.present):
                file.known = known

    def _upload(self, draft: _Draft, files: Sequence[_File]) -> None:
        self._progress.stage("bytes", sum(file.size for file in files))
        uploader = Uploader(self._repository, self._sealer, draft.present, self._progress)
        work = list(units((file.file, file.size) for file in files))
        uploads = uploader.run(work, self._options.workers)
        located = _by_file(uploads)
        for file in files:
            parts, objects = located.get(file.file, ((), {}))
            file.known = Known(tuple(parts), objects)
            if file.identity is not None:
                self._cache.put(file.identity, file.known)
        fresh = {upload.name: upload.entry.stored for upload in uploads if upload.fresh}
        draft.new_objects |= set(fresh)
        draft.new_bytes += sum(fresh.values())

    def _see_everything(self, draft: _Draft) -> None:
        """Every object that the manifest will name must be in the store now; a missing one is made again."""
        for _ in range(_HEALING_ROUNDS):
            draft.present = self._repository.object_sizes()
            gaps = set(missing_of(draft.objects(), draft.present))
            if not gaps:
                return
            _log.warning("%d objects are missing from %s or cut short: uploading them again", len(gaps), self._url)
            affected = [file for file in draft.files if gaps & set(_content(file).objects)]
            self._upload(draft, affected)
        raise TargetError(
            f"{self._url} does not keep what is written to it: object {min(gaps)} is still missing or too short after "
            f"{_HEALING_ROUNDS} uploads. No backup was recorded. Check the store and its lifecycle rules."
        )

    @property
    def _url(self) -> str:
        return self._repository.url

    def _described(self, draft: _Draft, facts: Facts, previous: Manifest | None, sequence: int) -> Manifest:
        now = datetime.now(UTC)
        objects = draft.objects()
        entries = tuple(
            FileEntry(file.path, file.size, file.mode, _content(file).parts)
            for file in sorted(draft.files, key=lambda file: file.path)
        )
        return Manifest(
            repository=self._repository.config.id,
            id=new_backup_id(now),
            sequence=sequence,
            previous=None if previous is None else (previous.id, previous.sha256),
            started=self._started.isoformat(timespec="milliseconds"),
            created=now.isoformat(timespec="milliseconds"),
            chain=chain_of(facts, self._repository.config.chain_id),
            keys=facts.keys,
            source={"node": self._snapshot.node, "kind": self._snapshot.kind, "host": platform.node()},
            versions=versions(),
            totals={
                "files": len(entries),
                "bytes": sum(entry.size for entry in entries),
                "stored_bytes": sum(entry.stored for entry in objects.values()),
                "new_objects": len(draft.new_objects),
                "new_bytes": draft.new_bytes,
            },
            objects=objects,
            files=entries,
        )


def chain_of(facts: Facts, chain_id: str) -> Chain:
    """The facts as a manifest states them."""
    return Chain(
        id=chain_id,
        height=facts.height,
        tip_hash=facts.tip_hash.hex(),
        tip_ms=facts.tip_ms,
        tip_certificate=_text(facts.tip_certificate),
        certified_height=facts.certified_height,
        certified_hash=facts.certified_hash.hex(),
        certificate=_text(facts.certificate),
        schema=facts.schema,
        epoch=facts.epoch,
    )


def versions() -> dict[str, str]:
    """What made the backup. The version of RocksDB stands in the database's own OPTIONS file."""
    return {"goud-backup": __version__, "goud-node": __version__, "python": platform.python_version()}


def _by_file(uploads: Iterable[Upload]) -> Mapping[Path, tuple[list[Part], dict[str, StoredObject]]]:
    """Parts in the order of the file, whatever order they were made in."""
    rows_by_path: dict[Path, list[tuple[int, Part, Upload]]] = {}
    for upload in uploads:
        for piece, part in zip(upload.unit, upload.parts, strict=True):
            rows_by_path.setdefault(piece.path, []).append((piece.offset, part, upload))
    located = {}
    for path, rows in rows_by_path.items():
        rows.sort(key=lambda row: row[0])
        located[path] = ([part for _, part, _ in rows], {upload.name: upload.entry for _, _, upload in rows})
    return located


def _content(file: _File) -> Known:
    if file.known is None:
        raise Damaged(f"{file.file} was not stored: this is a defect of goud-backup.")
    return file.known


def _size_and_mode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mode & 0o777


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()
