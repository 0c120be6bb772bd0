"""Manifests: what a backup consists of, in canonical JSON that carries its own hash and that of its predecessor."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any, Final

from msgspec import Meta

from goud_backup.codec.encoding import ENCODINGS, GZIP, decode, encode
from goud_backup.codec.sealing import Opener, Sealer
from goud_backup.errors import Damaged, NotVerified, SourceError
from goud_backup.repository.layout import BACKUP_ID, FORMAT, MOST_OBJECT, MOST_SEQUENCE, OBJECT_NAME, require_known
from goud_node.chain.certificate import Certificate
from goud_node.chain.genesis import Genesis
from goud_node.documents import (
    FEW,
    MOST_LISTING,
    Digest,
    Document,
    Malformed,
    Milliseconds,
    Number,
    Text,
    read,
    require_bounds,
    shaped,
)
from goud_node.errors import GoudError

_MOST_PATH: Final = len("rocksdb/") + 255
"""A file system gives a name 255 bytes."""
_PATH: Final = re.compile(r"chain_id|(?:rocksdb|secrets)/[^/\0]{1,255}")


@dataclass(frozen=True)
class Part:
    """`length` plain bytes at `offset` of an object's plain content; `sha256` is theirs, in hex."""

    object: str
    offset: int
    length: int
    sha256: str


@dataclass(frozen=True)
class StoredObject:
    """An object as the store has it: bytes there, plain bytes inside, and how the one becomes the other."""

    stored: int
    size: int
    encoding: str


@dataclass(frozen=True)
class FileEntry:
    """A file of the data directory. `path` is relative, with slashes."""

    path: str
    size: int
    mode: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Chain:
    """The chain a backup holds. Hashes in hex; a certificate is canonical CBOR in base64, None where there is none."""

    id: str
    height: Number
    tip_hash: str
    tip_ms: Milliseconds
    tip_certificate: str | None
    certified_height: Number
    certified_hash: str
    certificate: str | None
    schema: Number
    epoch: Number | None


@dataclass(frozen=True)
class Manifest:
    """`keys` counts rows by family; `previous` is (id, sha256) of the backup before, or None for the first."""

    repository: str
    id: str
    sequence: int
    previous: tuple[str, str] | None
    started: str
    created: str
    chain: Chain
    keys: Mapping[str, int]
    source: Mapping[str, str]
    versions: Mapping[str, str]
    totals: Mapping[str, int]
    objects: Mapping[str, StoredObject]
    files: tuple[FileEntry, ...] | None = None
    sealed_files: str | None = None
    sha256: str = field(default="")

    @property
    def created_at(self) -> datetime:
        return datetime.fromisoformat(self.created)

    @property
    def encrypted(self) -> bool:
        return self.sealed_files is not None

    def listing(self, opener: Opener | None) -> tuple[FileEntry, ...]:
        """The files. Raises WrongIdentity when they are sealed and `opener` cannot open them."""
        if self.files is not None:
            return self.files
        name = f"The list of files of backup {self.id}"
        try:
            sealed = base64.b64decode(self.sealed_files or "", validate=True)
        except ValueError as error:
            raise Damaged(f"{name} is damaged: {error}. Use another backup.") from error
        size = self.totals["listing_bytes"]
        if not 0 <= size <= MOST_LISTING:
            raise Damaged(f"{name} claims to have {size} bytes: it was replaced. Use another backup.")
        plain = decode(sealed, f"sealed+{GZIP}", size, opener, name)
        try:
            return _files(read(plain, list[_WrittenFile], MOST_LISTING))
        except ValueError as error:
            raise Damaged(f"{name} is damaged: {error}. Use another backup, or another copy of this one.") from error


def sealed(manifest: Manifest, sealer: Sealer | None) -> Manifest:
    """With the list of files encrypted where there is a sealer: names and plain hashes are not for the store."""
    check_paths(entry.path for entry in manifest.files or ())
    if sealer is None or manifest.files is None:
        return manifest
    # Always gzip, so that the reader needs no choice: spaces make even the shortest list shrink.
    plain = canonical([_file_document(entry) for entry in manifest.files]) + b" " * 4096
    _require_readable(plain, f"The list of files of {manifest.id}")
    encoded = encode(plain, sealer)
    totals = {**manifest.totals, "listing_bytes": len(plain)}
    text = base64.b64encode(encoded.data).decode()
    return replace(manifest, files=None, sealed_files=text, totals=totals)


def check_time(text: str) -> str:
    """The time. Raises ValueError unless it is ISO 8601, with its offset from UTC."""
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without its offset from UTC")
    return text


_Size = Annotated[int, Meta(ge=0, le=MOST_OBJECT)]
_Time = Annotated[str, Meta(max_length=64)]


def check_paths(paths: Iterable[str]) -> None:
    """Raises ValueError unless each is a path that a backup has, and none occurs twice."""
    before: set[str] = set()
    for path in paths:
        printable = _PATH.fullmatch(path) and not path.endswith(("/.", "/..")) and path.isprintable()
        if not printable or len(path.encode()) > _MOST_PATH:
            raise ValueError(f"the path {path[:200]!r} is not one that a backup has")
        if path in before:
            raise ValueError(f"the path {path} occurs twice")
        before.add(path)


def dump(manifest: Manifest) -> tuple[bytes, str]:
    """The bytes to store, and the manifest's hash in hex."""
    document = _document(manifest)
    digest = sha256(canonical(document)).hexdigest()
    raw = canonical({**document, "sha256": digest})
    name = f"The manifest of {manifest.id}"
    _require_readable(raw, name)
    try:
        load(raw, name)
    except Damaged as error:
        raise SourceError(f"No backup was recorded, because it could not be read again. {error}") from error
    return raw, digest


def _require_readable(raw: bytes, name: str) -> None:
    """Raises SourceError for what its reader would refuse: no backup may be recorded that nobody can restore."""
    try:
        require_bounds(raw, MOST_LISTING)
    except Malformed as error:
        raise SourceError(
            f"{name} could not be read again: {error}. No backup was recorded; one holds some 500 GB "
            "(docs/decisions/0029). Keep a copy of the stopped node's data directory by other means."
        ) from error


def load(raw: bytes | bytearray, key: str) -> Manifest:
    """Raises Damaged naming `key` for anything that is not exactly what was written."""
    try:
        require_bounds(raw, MOST_LISTING)
        document = json.loads(bytes(raw))
        if "sha256" not in document:
            # A later release may have another hash. A manifest of ours whose bytes have changed has one that differs.
            require_known(document.get("format"), key)
        declared = document.pop("sha256")
        digest = sha256(canonical(document)).hexdigest()
        exact = declared == digest and canonical({**document, "sha256": declared}) == bytes(raw)
    except Malformed as error:
        raise Damaged(f"{key} is not a manifest: {error}. Use another backup.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(
            f"{key} is not a manifest: it is damaged or cut short ({error!r:.200}). Copy it back from another copy of "
            "the repository, or move it out of manifests/ by hand; `goud-backup list` names the other backups."
        ) from error
    if not exact:
        raise Damaged(f"{key} is damaged: its content has the hash {digest}, it says {declared!r:.100}.")
    form = document.get("format")
    require_known(form, key)
    if form != FORMAT:
        raise Damaged(f"{key} has the format {form!r:.100}; this version of goud-backup reads {FORMAT}.")
    try:
        return _manifest(document, declared)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{key} is incomplete or mistyped: {error!r:.300}.") from error


def check_certificates(manifest: Manifest, genesis: Genesis) -> None:
    """Raises NotVerified unless those that the manifest carries are of its blocks; no key, no object is needed."""
    chain = manifest.chain
    for height, block_hash, text in (
        (chain.height, chain.tip_hash, chain.tip_certificate),
        (chain.certified_height, chain.certified_hash, chain.certificate),
    ):
        if text is None:
            continue
        try:
            certificate = Certificate.decode(base64.b64decode(text))
            certificate.verify(genesis)
        except (GoudError, ValueError) as error:
            raise NotVerified(f"A certificate in the manifest of {manifest.id} does not verify: {error}") from error
        if (certificate.height, certificate.block_hash.hex()) != (height, block_hash):
            raise NotVerified(f"A certificate in the manifest of {manifest.id} is for another block than {height}.")


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, ASCII only: one value has one text, and so one hash."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def _document(manifest: Manifest) -> dict[str, Any]:
    document: dict[str, Any] = {
        "format": FORMAT,
        "repository": manifest.repository,
        "id": manifest.id,
        "sequence": manifest.sequence,
        "previous": None if manifest.previous is None else {"id": manifest.previous[0], "sha256": manifest.previous[1]},
        "started": manifest.started,
        "created": manifest.created,
        "chain": asdict(manifest.chain),
        "keys": dict(manifest.keys),
        "source": dict(manifest.source),
        "versions": dict(manifest.versions),
        "totals": dict(manifest.totals),
        "objects": {name: [entry.stored, entry.size, entry.encoding] for name, entry in manifest.objects.items()},
    }
    if manifest.files is not None:
        document["files"] = [_file_document(entry) for entry in manifest.files]
    else:
        document["sealed_files"] = manifest.sealed_files
    return document


class _WrittenFile(Document):
    path: Text
    size: Number
    mode: Number
    parts: list[tuple[Digest, Number, Number, Digest]]


class _Written(Document):
    """What a manifest is made of, each value of its kind and within bounds, before any of it is used."""

    repository: Text
    id: Text
    sequence: Annotated[int, Meta(ge=0, le=MOST_SEQUENCE)]
    previous: Annotated[dict[Text, Text], FEW] | None
    started: Text
    created: _Time
    chain: Annotated[dict[Text, Text | Milliseconds | None], FEW]
    keys: Annotated[dict[Text, Number], FEW]
    source: Annotated[dict[Text, Text], FEW]
    versions: Annotated[dict[Text, Text], FEW]
    totals: Annotated[dict[Text, Number], FEW]
    objects: dict[str, tuple[_Size, _Size, Text]]
    files: list[_WrittenFile] | None = None
    sealed_files: str | None = None

    def __post_init__(self) -> None:
        check_time(self.created)


def _manifest(document: dict[str, Any], digest: str) -> Manifest:
    written = shaped(document, _Written)
    required_totals = {"files", "bytes", "new_bytes"} | ({"listing_bytes"} if document.get("files") is None else set())
    if not required_totals <= set(document["totals"]):
        raise ValueError("its totals are missing")
    shaped(document["chain"], Chain)
    previous = document["previous"]
    if not BACKUP_ID.fullmatch(document["id"]):
        raise ValueError(f"{document['id']!r:.100} is not a backup id")
    objects = {name: StoredObject(*entry) for name, entry in written.objects.items()}
    if not all(OBJECT_NAME.fullmatch(name) for name in objects):
        raise ValueError("an object does not have the name of one")
    if any(entry.encoding not in ENCODINGS for entry in objects.values()):
        raise ValueError("an object has an unknown encoding")
    return Manifest(
        repository=document["repository"],
        id=document["id"],
        sequence=document["sequence"],
        previous=None if previous is None else (previous["id"], previous["sha256"]),
        started=document["started"],
        created=document["created"],
        chain=Chain(**document["chain"]),
        keys=document["keys"],
        source=document["source"],
        versions=document["versions"],
        totals=document["totals"],
        objects=objects,
        files=None if written.files is None else _files(written.files),
        sealed_files=document.get("sealed_files"),
        sha256=digest,
    )


def _file_document(entry: FileEntry) -> dict[str, Any]:
    parts = [[part.object, part.offset, part.length, part.sha256] for part in entry.parts]
    return {"path": entry.path, "size": entry.size, "mode": entry.mode, "parts": parts}


def _files(written: Sequence[_WrittenFile]) -> tuple[FileEntry, ...]:
    entries = tuple(_file(entry) for entry in written)
    check_paths(entry.path for entry in entries)
    return entries


def _file(written: _WrittenFile) -> FileEntry:
    parts = tuple(Part(*part) for part in written.parts)
    if sum(part.length for part in parts) != written.size:
        raise ValueError(f"the parts of {written.path:.300} do not make its size")
    return FileEntry(written.path, written.size, written.mode, parts)
