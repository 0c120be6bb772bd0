"""Records of deep verifications: whose signatures of this chain need not be checked again. See docs/decisions/0022.

A record is signed by a validator, under a domain of its own, and names digests of all that was checked. What it says
is true for ever; whatever is not said so, in all of its parts, is checked. No record ever makes a restore fail.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Annotated, Any, Final

from msgspec import Meta
from msgspec.structs import asdict

from goud_backup.errors import Damaged, TargetError
from goud_backup.repository import layout
from goud_backup.repository.manifest import canonical
from goud_backup.repository.repository import Repository
from goud_backup.targets import Stat
from goud_node.chain import proof
from goud_node.chain.genesis import Genesis
from goud_node.chain.keys import DOMAIN_CHECKED, SigningKey, verify
from goud_node.chain.ledger import Ledger
from goud_node.chain.stretch import Checked
from goud_node.documents import Digest, Document, Number, read, shaped

_log = logging.getLogger(__name__)

KEPT: Final = 4
"""So many of the newest are read and stay: nodes may keep different majorities of the same signatures."""
_MOST_BYTES: Final = 4 * 1024 * 1024
"""Enough for ninety million blocks."""
_SKEW: Final = timedelta(days=1)
"""Clocks of hosts may differ so much; a record that is dated later is not taken for the newest."""
_KEY: Final = re.compile(rf"{layout.SIGNATURES}\d{{8}}T\d{{6}}Z-([0-9a-f]{{64}})\.json", re.ASCII)
_DIGEST_BYTES: Final = 32
_Short = Annotated[str, Meta(max_length=64)]


class Record(Document, forbid_unknown_fields=True):
    """What stands in one, besides its signature. `genesis` is the SHA-256 of the document, which names the validators.

    `digests` is base64 of one digest for each stretch of blocks; the last one ends at `height`.
    """

    format: _Short
    chain: _Short
    genesis: Digest
    epoch: Number | None
    height: Number
    hash: Digest
    stretch: Number
    digests: str
    validator: _Short
    created: _Short

    @property
    def checked(self) -> Checked:
        raw = base64.b64decode(self.digests, validate=True)
        digests = (raw[at : at + _DIGEST_BYTES] for at in range(0, len(raw), _DIGEST_BYTES))
        return Checked(frozenset(digests), frozenset({self.height}))


def signer(genesis: Genesis, key: SigningKey) -> str | None:
    """The validator whose key it is."""
    return next((validator.node_id for validator in genesis.validators if validator.public_key == key.public), None)


def write(repository: Repository, proven: proof.Proven, key: SigningKey | None) -> str | None:
    """Record that every signature of a proven chain was checked; the record's key.

    None without a validator's key, and where the store does not take it: the verification itself stands, so that is a
    warning. Raises ValueError when signatures were left out.
    """
    if proven.spared:
        raise ValueError("A proof that has left signatures out must not be recorded.")
    genesis = repository.config.genesis
    if key is None or proven.height == 0:
        return None
    validator = signer(genesis, key)
    if validator is None:
        _log.warning("no record was written for later restores: the key given by --key is not a validator's")
        return None
    now = datetime.now(UTC)
    record = Record(
        format=layout.FORMAT,
        chain=genesis.chain_id,
        genesis=_genesis(genesis),
        epoch=proven.epoch,
        height=proven.height,
        hash=proven.tip_hash.hex(),
        stretch=proof.STRETCH,
        digests=base64.b64encode(b"".join(proven.digests)).decode(),
        validator=validator,
        created=now.isoformat(timespec="seconds"),
    )
    raw = dump(record, key)
    name = f"{layout.SIGNATURES}{now:%Y%m%dT%H%M%SZ}-{sha256(raw).hexdigest()}.json"
    try:
        repository.put_once(name, raw)
    except TargetError as error:
        _log.warning("no record was written for later restores: %s", error)
        return None
    return name


def dump(record: Record, key: SigningKey) -> bytes:
    """The bytes to store."""
    document = asdict(record)
    signature = key.sign(DOMAIN_CHECKED, canonical(document)).hex()
    return canonical({**document, "signature": signature})


def load(raw: bytes, name: str, genesis: Genesis) -> Record:
    """Raises Damaged unless it is, byte for byte, what a validator of this chain has signed."""
    match = _KEY.fullmatch(name)
    if match is None or sha256(raw).hexdigest() != match[1]:
        raise Damaged(f"{name} does not have the SHA-256 in its name")
    try:
        document: dict[str, Any] = read(raw, dict[str, Any], _MOST_BYTES)
        signature = bytes.fromhex(document.pop("signature"))
        record = shaped(document, Record)
        digests = base64.b64decode(record.digests, validate=True)
        plain = canonical(document)
        exact = canonical({**document, "signature": signature.hex()}) == raw
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{name} is not a record that can be read ({type(error).__name__})") from error
    if not exact:
        raise Damaged(f"{name} is not in the form that is written")
    if record.format != layout.FORMAT or record.stretch != proof.STRETCH:
        raise Damaged(f"{name} has a format that this release does not read")
    if len(digests) != _DIGEST_BYTES * -(-record.height // proof.STRETCH):
        raise Damaged(f"{name} does not have a digest for each stretch of blocks")
    if (record.chain, record.genesis) != (genesis.chain_id, _genesis(genesis)):
        raise Damaged(f"{name} is of another chain")
    validator = genesis.validators_at(record.height).get(record.validator)
    if validator is None or not verify(validator.public_key, DOMAIN_CHECKED, plain, signature):
        raise Damaged(f"{name} is not signed by a validator")
    return record


class Trust:
    """What the records of a repository say of the chain in a ledger. Call it; a proof does, once."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def __call__(self, ledger: Ledger) -> Checked:
        """Nothing where no record holds for this chain; a line says why when there is one that does not."""
        checked, problems = Checked(), []
        try:
            for stat in newest(self._repository):
                try:
                    more = _record_for(_read(self._repository, stat, ledger.genesis), stat.key, ledger).checked
                except (Damaged, TargetError) as error:
                    problems.append(str(error))
                else:
                    checked = Checked(checked.digests | more.digests, checked.ends | more.ends)
        except TargetError as error:
            problems.append(str(error))
        if problems and not checked.digests:
            _log.warning("every signature is checked, because no record holds: %s", "; ".join(problems))
        return checked


def newest(repository: Repository) -> list[Stat]:
    """The records that are read, newest first. Raises TargetError."""
    return _all(repository)[:KEPT]


def superseded(repository: Repository) -> Iterator[Stat]:
    """What no restore needs: older records, and what is not one that a validator of this chain has signed."""
    count = 0
    for stat in _all(repository):
        try:
            _read(repository, stat, repository.config.genesis)
        except Damaged:
            yield stat
            continue
        except TargetError:
            continue  # what cannot be read now may be good
        count += 1
        if count > KEPT:
            yield stat


def _all(repository: Repository) -> list[Stat]:
    """Newest first; last what is dated ahead: by a clock that is wrong, four would displace every later one."""
    stats = (stat for stat in repository.target.list(layout.SIGNATURES) if _KEY.fullmatch(stat.key))
    latest = f"{layout.SIGNATURES}{_latest(repository):%Y%m%dT%H%M%SZ}"
    return sorted(stats, key=lambda stat: (stat.key <= latest, stat.key), reverse=True)


def _latest(repository: Repository) -> datetime:
    """No record is dated later. By the store's clock where nobody who writes here can set that, and it tells a time:
    the one that is wrong may be this host's.
    """
    stored = repository.target.now() if repository.target.independent_clock else None
    if stored is not None:
        with suppress(ValueError, OverflowError, OSError):
            return datetime.fromtimestamp(stored, UTC) + _SKEW
    return datetime.now(UTC) + _SKEW


def _read(repository: Repository, stat: Stat, genesis: Genesis) -> Record:
    if stat.size > _MOST_BYTES:
        raise Damaged(f"{stat.key} has {stat.size} bytes, more than any record")
    return load(bytes(repository.target.get(stat.key, 0, _MOST_BYTES)), stat.key, genesis)


def _record_for(record: Record, name: str, ledger: Ledger) -> Record:
    """The record, when it is of the history at hand. Below its height digests alone tell: they cover every block."""
    epoch = None if ledger.epoch is None else ledger.epoch.number
    if record.epoch != epoch:
        raise Damaged(f"{name} is of epoch {record.epoch}, the chain at hand of {epoch}")
    block = ledger.block(record.height)
    if block is not None and block.hash.hex() != record.hash:
        raise Damaged(f"{name} names another block {record.height} than the chain at hand has")
    return record


def _genesis(genesis: Genesis) -> str:
    return sha256(genesis.document).hexdigest()
