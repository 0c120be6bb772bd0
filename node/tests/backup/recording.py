"""Records of deep verifications: true ones, and every kind that does not hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

from msgspec import structs

from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.drill import Report, perform
from goud_backup.repository import layout, signed
from goud_backup.repository.manifest import canonical
from goud_backup.repository.repository import Repository
from goud_backup.repository.signed import Record
from goud_node.chain.keys import DOMAIN_PERSISTED, SigningKey

from .support import GENESIS, KEYS

KEY = KEYS["node2"]
STRANGER = SigningKey.from_seed(b"x" * 32)


def deep(repository: Repository, key: SigningKey | None = KEY) -> None:
    report = verifying.verify(repository, verifying.Depth(deep=True), restoring.Tools(None, key=key))
    assert report.ok, report.problems


def drill(repository: Repository, folder: Path) -> None:
    scratch = folder / "scratch"
    scratch.mkdir()
    perform(repository, "latest", scratch, restoring.Tools(None, key=KEY), Report(repository.url, "node3"))


def written(repository: Repository) -> list[str]:
    return [stat.key for stat in repository.target.list(layout.SIGNATURES)]


def put(repository: Repository, raw: bytes, day: int = 1) -> str:
    key = f"{layout.SIGNATURES}203001{day:02}T000000Z-{sha256(raw).hexdigest()}.json"
    repository.target.put(key, raw)
    return key


def taken(repository: Repository) -> Record:
    """The one record, taken out of the repository."""
    (name,) = written(repository)
    record = signed.load(bytes(repository.target.get(name)), name, GENESIS)
    repository.target.delete(name)
    return record


def edited(raw: bytes, **changes: object) -> bytes:
    return canonical({**json.loads(raw), **changes})


def unfit(changes: dict[str, object], record: Record) -> bytes:
    return signed.dump(structs.replace(record, **changes), KEY)


def of_another_domain(record: Record) -> bytes:
    document = structs.asdict(record)
    return canonical({**document, "signature": KEY.sign(DOMAIN_PERSISTED, canonical(document)).hex()})


SIGNED_BUT_UNFIT: dict[str, dict[str, object]] = {
    "another chain": {"chain": "goud-0123456789abcdef"},
    "another genesis document": {"genesis": "0" * 64},
    "another epoch": {"epoch": 7},
    "an abandoned history": {"hash": "0" * 64},
    "another format": {"format": "goud-backup/2"},
    "another length of stretches": {"stretch": 17},
    "too few digests": {"digests": ""},
    "digests that are not base64": {"digests": "?" * 172},
    "another validator": {"validator": "node1"},
    "nobody": {"validator": "node9"},
    "a height without end": {"height": 2**52},
}
UNFIT: dict[str, Callable[[Record], bytes]] = {
    **{name: partial(unfit, changes) for name, changes in SIGNED_BUT_UNFIT.items()},
    "signed by a stranger": lambda record: signed.dump(record, STRANGER),
    "signed in another domain": of_another_domain,
    "altered after signing": lambda record: edited(signed.dump(record, KEY), created="2031-01-01T00:00:00+00:00"),
    "not signed": lambda record: canonical(structs.asdict(record)),
    "signature of another kind": lambda record: edited(signed.dump(record, KEY), signature=7),
    "more fields": lambda record: edited(signed.dump(record, KEY), more=1),
    "cut short": lambda record: signed.dump(record, KEY)[:-20],
    "spaces": lambda record: signed.dump(record, KEY) + b" ",
    "empty": lambda _: b"",
    "not text": lambda _: b"\xff\x00\xfe",
    "a list": lambda _: b"[]",
    "nested": lambda _: b"[" * 100_000,
    "a number without end": lambda _: b'{"height":' + b"9" * 10_000 + b"}",
    "oversized": lambda record: signed.dump(structs.replace(record, digests="A" * (5 << 20)), KEY),
}
