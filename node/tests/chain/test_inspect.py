"""Inspect believes nothing but genesis and the validators' keys, and names what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from goud_node.chain.certificate import Certificate
from goud_node.chain.indexes import height_key, owner_prefix, position_key
from goud_node.chain.inspect import Report, inspect
from goud_node.chain.ledger import Epoch
from goud_node.chain.records import LedgerState
from goud_node.chain.transactions import Transaction
from goud_node.chain.volume import initialize_volume, open_volume
from goud_node.store import Batch, Family, RocksStore

from .support import GENESIS, account, block_after, certificate_of, chain_of, collection, resigned

BODIES: list[list[Transaction]] = [
    [collection("void"), account(), account("bob")],
    [collection("one"), collection("one"), collection("two", "bob")],
    [collection("three")],
    [account("bob")],
    [collection("four")],
    [],
]
CHAIN = chain_of(BODIES)
Damage = Callable[[RocksStore], Batch]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "data"
    initialize_volume(path, GENESIS)
    store, ledger = open_volume(path, GENESIS, must_be_mount=False)
    ledger.append(CHAIN, [certificate_of(block) for block in CHAIN[:4]])
    ledger.set_epoch(Epoch(2, 1, CHAIN[0].hash))
    store.close()
    return path


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


def test_a_whole_chain_is_verified_and_the_uncertified_tail_is_told(data: Path) -> None:
    report = inspect(data, GENESIS)
    assert report.problem is None
    assert (report.height, report.certified_height, report.uncertified_blocks) == (6, 4, 2)
    assert (report.blocks_verified, report.certificates_verified) == (7, 4)
    assert (report.transactions, report.void_transactions, report.accounts, report.collections) == (9, 3, 2, 4)
    assert (report.tip_hash, report.epoch, report.schema_version) == (CHAIN[-1].hash.hex(), 2, 1)
    assert json.loads(json.dumps(report.as_dict()))["ok"] is True
    rows = dict(report.rows())
    assert rows["result"] == "verified"
    assert rows["uncertified tail"].startswith("2 (")


def test_inspecting_changes_no_data(data: Path) -> None:
    before = {file.name: file.read_bytes() for file in (data / "rocksdb").iterdir() if file.suffix in {".sst", ".log"}}
    inspect(data, GENESIS)
    after = {file.name: file.read_bytes() for file in (data / "rocksdb").iterdir() if file.suffix in {".sst", ".log"}}
    assert after == before


def put(family: Family, key: bytes, value: bytes) -> Damage:
    def damage(_: RocksStore) -> Batch:
        batch = Batch()
        batch.put(family, key, value)
        return batch

    return damage


def delete(family: Family, key: bytes) -> Damage:
    def damage(_: RocksStore) -> Batch:
        batch = Batch()
        batch.delete(family, key)
        # A row more elsewhere in the family: the cheap count at open cannot tell, only reading can.
        batch.put(family, b"\xff" * 8, b"")
        return batch

    return damage


def state_with(**changes: int) -> Damage:
    def damage(store: RocksStore) -> Batch:
        state = LedgerState.decode(store.get(Family.METADATA, b"state") or b"")
        fields = {**vars(state), **changes}
        return put(Family.METADATA, b"state", LedgerState(**fields).encode())(store)

    return damage


FORGED = block_after(CHAIN[1].header, [collection("forged")], at=50_000)
UNSIGNED = resigned(CHAIN[2], {}, signer="node2")
LISTING = owner_prefix(b"p", "alice") + position_key(3, 0)


@pytest.mark.parametrize(
    ("damage", "height", "part"),
    [
        (put(Family.BLOCKS, height_key(3), FORGED.encode()), 3, "certifies another block"),
        (put(Family.BLOCKS, height_key(3), UNSIGNED.encode()), 3, "signature of node1"),
        (put(Family.BLOCKS, height_key(3), b"\x80"), 3, "not a block"),
        (put(Family.BLOCKS, height_key(5), CHAIN[3].encode()), 5, "does not follow"),
        (put(Family.CERTIFICATES, height_key(2), certificate_of(CHAIN[1], ["node1"]).encode()), 2, "majority"),
        (put(Family.CERTIFICATES, height_key(2), certificate_of(CHAIN[2]).encode()), 2, "certifies another block"),
        (put(Family.CERTIFICATES, height_key(5), b"junk"), 5, "not a certificate"),
        (
            put(Family.CERTIFICATES, height_key(9), Certificate(9, bytes(32), {}).encode()),
            None,
            "for block 9, not stored",
        ),
        (delete(Family.CERTIFICATES, height_key(2)), 2, "certificate of block 2 is missing"),
        (delete(Family.COLLECTIONS, LISTING), 3, "family collections contradicts"),
        (delete(Family.SUBMISSIONS, b"alice\0key-three"), 3, "family submissions contradicts"),
        (delete(Family.ACCOUNTS, b"abob"), 1, "family accounts contradicts"),
        (put(Family.AUDIT, b"alice\0" + position_key(6, 0), b""), None, "family audit has 7 rows"),
        (put(Family.ACCOUNTS, b"amallory", b""), None, "family accounts has 5 rows"),
        (state_with(payload_bytes=1), None, "payload_bytes; the ledger's state says 1"),
        (state_with(transactions=8), None, "transactions; the ledger's state says 8"),
        (state_with(certified_height=3), None, "Blocks up to 4 are certified"),
    ],
)
def test_whatever_contradicts_the_chain_is_named(data: Path, damage: Damage, height: int | None, part: str) -> None:
    store = RocksStore.open(data / "rocksdb")
    store.write(damage(store))
    store.close()
    report = inspect(data, GENESIS)
    assert report.problem is not None
    assert part in report.problem.message
    assert report.problem.height == height
    assert part in dict(report.rows())["result"]


def test_a_flipped_byte_on_disk_is_named(data: Path) -> None:
    files = sorted((data / "rocksdb").glob("*.sst"), key=lambda file: file.stat().st_size)
    content = bytearray(files[-1].read_bytes())
    content[len(content) // 3] ^= 1
    files[-1].write_bytes(content)
    report = inspect(data, GENESIS)
    assert report.problem is not None
    assert report.problem.code == "corrupt-store"
    assert files[-1].name in report.problem.message or "family" in report.problem.message


def test_what_is_no_volume_is_reported_not_raised(tmp_path: Path) -> None:
    def problem(report: Report) -> str:
        assert not report.ok
        assert report.problem is not None
        return report.problem.code

    assert problem(inspect(tmp_path / "missing", GENESIS)) == "configuration"
    assert problem(inspect(tmp_path, GENESIS)) == "uninitialized-volume"
    (tmp_path / "chain_id").write_text("goud-other\n")
    assert problem(inspect(tmp_path, GENESIS)) == "wrong-chain"
    (tmp_path / "chain_id").write_text(GENESIS.chain_id)
    assert problem(inspect(tmp_path, GENESIS)) == "corrupt-store"
    RocksStore.create(tmp_path / "rocksdb").close()
    assert problem(inspect(tmp_path, GENESIS)) == "corrupt-store"
    assert not (tmp_path / "missing").exists()


def test_progress_is_told(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goud_node.chain.proof.STRETCH", 2)
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    inspect(data, GENESIS, progress)
    assert seen == [(2, 6), (4, 6), (6, 6)]


def test_a_running_nodes_directory_can_be_inspected(data: Path) -> None:
    def opened() -> Iterator[None]:
        store, _ = open_volume(data, GENESIS, must_be_mount=False)
        yield
        store.close()

    for _ in opened():
        assert inspect(data, GENESIS).ok
