"""Put a proven database in the place of the live one: by rename, with a journal, the old one kept."""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from msgspec.structs import asdict as fields

from goud_backup import reading, secret_files, walk
from goud_backup.errors import InUse, SourceError
from goud_backup.secret_files import SecretFiles, WrittenSecretFiles, require_below
from goud_backup.settings import SECRETS_FOLDER
from goud_backup.source import held
from goud_node.documents import Document, Line, Malformed, read_file
from goud_node.errors import CorruptStore, WrongChain
from goud_node.store import durable, marker
from goud_node.store.twin import RESTORED

_log = logging.getLogger(__name__)

STAGING: Final = "restore.staging"
JOURNAL: Final = "restore.json"
BEFORE: Final = "rocksdb.before-"
UNDONE: Final = "rocksdb.undone-"
_KEPT: Final = re.compile(rf"({'|'.join(map(re.escape, (BEFORE, UNDONE, secret_files.KEPT)))})\d{{8}}T\d{{12}}Z")
"""What swaps have kept: anything else that begins like it was put there by somebody."""
PATIENCE: Final = 60.0
"""Seconds to wait for another restore: a playbook that was killed leaves one behind, which ends by itself."""
_AT_FDCWD: Final = -100
_EXCHANGE: Final = 2
_UNSUPPORTED: Final = {errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.ENOTSUP}


@dataclass(frozen=True)
class Journal:
    """The last swap of a data directory: `aside` holds what was live before, empty when nothing was; `secrets` are
    those that were swapped with it.

    `former` is the one before, while this one may still come to nothing: then what it kept can still be put back.
    """

    id: str
    staged: str
    aside: str
    state: str
    former: Journal | None = None
    secrets: SecretFiles | None = None


class _Swap(Document):
    id: Line
    staged: Line
    aside: Line
    state: Line
    secrets: WrittenSecretFiles | None = None

    def __post_init__(self) -> None:
        for path in (self.staged, self.aside):
            require_below(path)


class _Written(_Swap):
    former: _Swap | None = None


class _Restored(Document):
    id: Line


@contextmanager
def exclusive(data_dir: Path, *, patience: float = PATIENCE) -> Iterator[Path]:
    """Nobody else restores here, and no node runs; the path of an empty staging directory.

    A swap that was cut short is finished or forgotten first; another restore is waited for, at most `patience` seconds.
    However the work ends, what is left of it in the staging directory is removed. Raises InUse, SourceError.
    """
    if not data_dir.is_dir():
        raise SourceError(f"The data directory {data_dir} does not exist. Mount the volume or correct --data-dir.")
    if os.geteuid() not in {0, data_dir.stat().st_uid}:
        raise SourceError(
            f"{data_dir} belongs to account {data_dir.stat().st_uid}, this is account {os.geteuid()}: the node could "
            "not use what is written here. Run it as that account, or as root."
        )
    with ExitStack() as stack:
        # A second lock file of the same kind: two restores exclude each other even where there is no database yet.
        guard = data_dir / ".restore"
        durable.make_folder(guard)
        _enter(stack, guard, data_dir, patience)
        live = marker.database_path(data_dir)
        if live.is_dir():
            stack.enter_context(held(live))
        recover(data_dir)
        staging = data_dir / STAGING
        if staging.exists():
            shutil.rmtree(staging)
        durable.make_folder(staging, 0o700)
        try:
            yield staging
        finally:
            _clear(data_dir, staging)


def _clear(data_dir: Path, staging: Path) -> None:
    """Leave nothing of a restore that failed on the disk of the live data; the error itself is what is told.

    Only a swap that was cut short needs what is staged: the next run finishes it.
    """
    try:
        journal = read_journal(data_dir)
        if staging.exists() and (journal is None or journal.state != "swapping"):
            shutil.rmtree(staging)
    except (OSError, SourceError) as error:
        _log.warning("%s stays until the next restore, which removes it: %s", staging, error)


def _enter(stack: ExitStack, guard: Path, data_dir: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            stack.enter_context(held(guard))
        except InUse as error:
            if time.monotonic() >= deadline:
                raise InUse(f"Another restore works on {data_dir}. Wait until it is done.") from error
            time.sleep(min(0.5, patience))
        else:
            return


def require_chain(data_dir: Path, chain_id: str) -> None:
    """Raises WrongChain when the directory is another chain's, or holds a database of an unknown one, and
    ConfigurationError when its marker cannot be read.
    """
    owner = marker.read(data_dir, chain_id)
    if owner is None and marker.database_path(data_dir).exists():
        raise WrongChain(
            f"{data_dir} holds a database but no {marker.MARKER} marker, so its chain is unknown. Nothing was changed. "
            "Mount the right volume, or move that database aside first."
        )
    if owner is not None and owner != chain_id:
        raise WrongChain(f"{data_dir} belongs to chain {owner}, the backup to {chain_id}. Nothing was changed.")


def swap(data_dir: Path, staged: Path, chain_id: str, secrets_to: Path | None = None) -> Path | None:
    """Make the database `staged` the live one; where the old one is kept, None when there was none. The secrets that
    are staged beside it go to `secrets_to`, and what they replace is kept; a failure leaves the live ones.
    """
    now = _stamp()
    live = marker.database_path(data_dir)
    aside = f"{BEFORE}{now}" if live.exists() else ""
    coming = staged.parent / SECRETS_FOLDER
    secrets = None
    if secrets_to is not None and coming.is_dir():
        names = tuple(sorted(path.name for path in coming.iterdir()))
        folder, origin = str(secrets_to.absolute()), str(coming.relative_to(data_dir))
        secrets = SecretFiles(folder, names, origin, f"{secret_files.KEPT}{now}")
        secret_files.keep(data_dir, secrets)
    elif secrets_to is not None:
        _log.warning("%s stays as it is: what is restored has no secrets", secrets_to)
    place = str(staged.relative_to(data_dir))
    journal = Journal(now, place, aside, "swapping", read_journal(data_dir), secrets)
    durable.replace(staged / RESTORED, json.dumps({"id": now}).encode())
    if not (data_dir / marker.MARKER).exists():
        durable.replace(data_dir / marker.MARKER, f"{chain_id}\n".encode())
    _perform(data_dir, journal)
    _finish(data_dir, journal)
    return data_dir / aside if aside else None


def _perform(data_dir: Path, journal: Journal) -> None:
    _write(data_dir, journal)
    try:
        _put_secrets(data_dir, journal)
        _exchange(data_dir, journal)
    except BaseException:
        if not _took_effect(data_dir, journal):
            _put_secrets(data_dir, journal, back=True)
        raise


def _put_secrets(data_dir: Path, journal: Journal, *, back: bool = False) -> None:
    if journal.secrets is not None:
        secret_files.put(data_dir, journal.secrets, journal.secrets.kept if back else journal.secrets.staged)


def _took_effect(data_dir: Path, journal: Journal) -> bool:
    live = marker.database_path(data_dir)
    return not live.exists() or _restored_id(live) == journal.id


def recover(data_dir: Path) -> None:
    """Finish a swap that had begun to take effect; one that had not is forgotten. Harmless at any time."""
    journal = read_journal(data_dir)
    if journal is None or journal.state != "swapping":
        return
    if _took_effect(data_dir, journal):
        _put_secrets(data_dir, journal)
        _exchange(data_dir, journal)
        _finish(data_dir, journal)
        return
    _put_secrets(data_dir, journal, back=True)
    if journal.former is not None:
        _write(data_dir, journal.former)
    else:
        (data_dir / JOURNAL).unlink()
        durable.sync_directory(data_dir)


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")


def undo(data_dir: Path) -> Path:
    """Put back what was live before the last restore; where the restored data is kept now. The node must be stopped."""
    with exclusive(data_dir):
        journal = read_journal(data_dir)
        if (
            journal is None
            or journal.state == "swapping"
            or not journal.aside
            or not (data_dir / journal.aside).is_dir()
        ):
            raise SourceError(f"{data_dir} has no restore to undo: nothing is kept from before one.")
        _require_whole(data_dir / journal.aside)
        now, secrets = _stamp(), journal.secrets
        if secrets is not None:
            secrets = replace(secrets, staged=secrets.kept, kept=f"{secret_files.KEPT}{now}")
            secret_files.keep(data_dir, secrets)
        back = Journal(now, journal.aside, f"{UNDONE}{now}", "swapping", journal, secrets)
        durable.replace(data_dir / journal.aside / RESTORED, json.dumps({"id": now}).encode())
        _perform(data_dir, back)
        _finish(data_dir, replace(back, state="undone"))
        return data_dir / back.aside


def _require_whole(database: Path) -> None:
    """Before it goes live. Raises SourceError for one of which anything cannot be read."""
    try:
        with walk.opened(database) as store:
            reading.read_all(store)
    except CorruptStore as error:
        raise SourceError(
            f"{database}, which was live before the last restore, is not whole: {error} It was not put back, and "
            "nothing was changed. Restore from a backup instead."
        ) from error


def cleanup(data_dir: Path) -> list[str]:
    """Remove what restores have kept; the names of what was removed.

    First the journal is forgotten and everything is out of the way: what is half removed must not be put back.
    """
    with exclusive(data_dir) as staging:
        places = (*data_dir.iterdir(), *(data_dir / ".restore").iterdir())
        names = sorted(str(path.relative_to(data_dir)) for path in places if path.is_dir())
        removed = [name for name in names if _KEPT.fullmatch(name)]
        (data_dir / JOURNAL).unlink(missing_ok=True)
        durable.sync_directory(data_dir)
        for name in removed:
            # Whoever comes next empties this folder first.
            (data_dir / name).rename(staging / Path(name).name)
        durable.sync_directory(data_dir)
        shutil.rmtree(staging)
    return removed


def read_journal(data_dir: Path) -> Journal | None:
    """None when nothing was ever restored here."""
    path = data_dir / JOURNAL
    try:
        written = read_file(path, _Written)
        return _journal(written, None if written.former is None else _journal(written.former))
    except FileNotFoundError:
        return None
    except Malformed as error:
        raise SourceError(f"{path} is damaged ({error}): look at the directory, then remove that file.") from error


def _journal(written: _Swap, former: Journal | None = None) -> Journal:
    secrets = None if written.secrets is None else SecretFiles(**fields(written.secrets))
    return Journal(written.id, written.staged, written.aside, written.state, former, secrets)


def _exchange(data_dir: Path, journal: Journal) -> None:
    """Every step looks at what is there, so that it can be repeated after a crash between any two."""
    live, staged = marker.database_path(data_dir), data_dir / journal.staged
    aside = data_dir / journal.aside
    if journal.aside and live.exists() and _restored_id(live) != journal.id and not _atomically(staged, live):
        live.rename(aside)
        durable.sync_directory(data_dir)
    if not live.exists():
        staged.rename(live)
    if journal.aside and not aside.exists():
        staged.rename(aside)
    durable.sync_directory(data_dir)
    if staged.parent != data_dir and staged.parent.is_dir():
        durable.sync_directory(staged.parent)


def _atomically(first: Path, second: Path) -> bool:
    """Exchange two names in one step; False where the file system can not."""
    library = ctypes.CDLL(None, use_errno=True)
    rename = getattr(library, "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(first))


def _write(data_dir: Path, journal: Journal) -> None:
    durable.replace(data_dir / JOURNAL, json.dumps(asdict(journal)).encode())


def _finish(data_dir: Path, journal: Journal) -> None:
    state = "done" if journal.state == "swapping" else journal.state
    _write(data_dir, replace(journal, state=state, former=None))


def _restored_id(database: Path) -> str | None:
    try:
        return read_file(database / RESTORED, _Restored).id
    except (FileNotFoundError, Malformed):
        return None
