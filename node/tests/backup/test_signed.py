"""Records of deep verifications: a true one spares signatures, any other spares none and stops no restore."""

from __future__ import annotations

import logging
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup import walk
from goud_backup.cli import exits
from goud_backup.errors import AccessRefused, Damaged, TargetError
from goud_backup.plan import Wish
from goud_backup.prune import prune
from goud_backup.repository import layout, signed
from goud_backup.repository.repository import Repository
from goud_backup.repository.retention import Policy
from goud_backup.repository.signed import KEPT, Record
from goud_backup.targets import Stat
from goud_node.chain import proof
from goud_node.chain.block import Block
from goud_node.chain.genesis import Genesis
from goud_node.chain.indexes import height_key
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Epoch, Ledger
from goud_node.chain.rules import check_signature
from goud_node.errors import InvalidBlock
from goud_node.store import Batch, Family, RocksStore

from .command import Command
from .recording import KEY, STRANGER, UNFIT, deep, drill, put, taken, written
from .support import GENESIS, backup, grow, restore, ship, tip_of

STRETCH = 16


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "STRETCH", STRETCH)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Heights of the blocks whose signatures the prover has verified."""
    found: list[int] = []

    def look(genesis: Genesis, block: Block) -> None:
        found.append(block.height)
        check_signature(genesis, block)

    monkeypatch.setattr("goud_node.chain.stretch.check_signature", look)
    return found


@pytest.fixture
def stored(repository: Repository, data: Path, cache: Path) -> Repository:
    """A backup of 60 certified blocks."""
    grow(data, 0)
    backup(repository, data, cache)
    return repository


def test_a_deep_verification_spares_later_restores_the_signatures(
    stored: Repository, tmp_path: Path, checked: list[int]
) -> None:
    assert restore(stored, tmp_path / "before").spared == 0
    deep(stored)
    checked.clear()
    done = restore(stored, tmp_path / "after")
    assert (done.height, done.spared, checked) == (60, 59, [60])
    assert tip_of(tmp_path / "after") == tip_of(tmp_path / "before")


def test_what_came_later_is_checked(stored: Repository, data: Path, tmp_path: Path, checked: list[int]) -> None:
    deep(stored)
    grow(data, 20)
    ship(stored, data)
    checked.clear()
    assert restore(stored, tmp_path / "live").spared == 60
    assert checked == list(range(61, 81))


def test_an_earlier_backup_is_spared_what_the_record_covers(
    stored: Repository, data: Path, cache: Path, tmp_path: Path
) -> None:
    first = stored.find("latest").id
    grow(data, 30)
    backup(stored, data, cache)
    deep(stored)
    done = restore(stored, tmp_path / "live", Wish(first, exact=True))
    assert (done.height, done.spared) == (60, 48), "whole stretches, by their digests"


def test_deep_verification_and_drill_check_everything_again(
    stored: Repository, tmp_path: Path, checked: list[int]
) -> None:
    deep(stored)
    checked.clear()
    deep(stored)
    assert checked == list(range(1, 61))
    checked.clear()
    drill(stored, tmp_path)
    assert checked == list(range(1, 61))
    assert restore(stored, tmp_path / "live").spared == 59


def test_a_drill_writes_a_record(stored: Repository, tmp_path: Path) -> None:
    drill(stored, tmp_path)
    assert taken(stored).height == 60


@pytest.mark.parametrize("unfit", UNFIT)
def test_a_record_that_does_not_hold_spares_nothing_and_stops_nothing(
    stored: Repository, tmp_path: Path, checked: list[int], caplog: pytest.LogCaptureFixture, unfit: str
) -> None:
    deep(stored)
    name = put(stored, UNFIT[unfit](taken(stored)))
    checked.clear()
    with caplog.at_level(logging.WARNING):
        done = restore(stored, tmp_path / "live")
    assert (done.height, done.spared, checked) == (60, 0, list(range(1, 61)))
    (line,) = [entry.getMessage() for entry in caplog.records if "signature" in entry.getMessage()]
    assert line.startswith("every signature is checked")
    assert name in line


def test_a_true_record_holds_beside_others(stored: Repository, tmp_path: Path) -> None:
    deep(stored)
    record = taken(stored)
    put(stored, signed.dump(record, KEY), day=1)
    put(stored, signed.dump(record, STRANGER), day=2)
    stored.target.put(f"{layout.SIGNATURES}some.json", b"of another tool")
    assert restore(stored, tmp_path / "live").spared == 59


def forge(data: Path, height: int) -> None:
    """Another proposer's signature in a block: links, roots and certificates hold."""
    store = RocksStore.open(data / "rocksdb")
    try:
        block = Ledger(store, GENESIS).block(height)
        assert block is not None
        batch = Batch()
        batch.put(Family.BLOCKS, height_key(height), replace(block, signature=bytes(64)).encode())
        store.write(batch)
    finally:
        store.close()


@pytest.mark.parametrize("forger", [None, "signed by a stranger", "not signed", "altered after signing", "nobody"])
def test_who_may_write_to_the_repository_gains_nothing(
    repository: Repository, data: Path, cache: Path, tmp_path: Path, forger: str | None
) -> None:
    grow(data, 0)
    forge(data, 5)
    with pytest.MonkeyPatch.context() as blind:
        blind.setattr("goud_node.chain.stretch.check_signature", lambda *_: None)
        backup(repository, data, cache)
        deep(repository)
        assert restore(repository, tmp_path / "blind").height == 60
    record = taken(repository)
    if forger is None:
        # The digests are the right ones: a validator's signature, and nothing else, makes them hold.
        put(repository, signed.dump(record, KEY))
        assert restore(repository, tmp_path / "live").spared == 59
        return
    put(repository, UNFIT[forger](record))
    with pytest.raises(InvalidBlock, match="signature"):
        restore(repository, tmp_path / "live")


def test_a_signature_that_is_not_the_recorded_one_is_checked(
    stored: Repository, data: Path, cache: Path, tmp_path: Path
) -> None:
    deep(stored)
    forge(data, 5)
    backup(stored, data, cache)
    with pytest.raises(InvalidBlock, match="signature"):
        restore(stored, tmp_path / "live")


def test_a_record_holds_in_its_own_epoch_only(repository: Repository, data: Path, cache: Path, tmp_path: Path) -> None:
    def enter(number: int) -> None:
        grow(data, 0)
        store = RocksStore.open(data / "rocksdb")
        try:
            ledger = Ledger(store, GENESIS)
            ledger.set_epoch(Epoch(number, ledger.height, ledger.tip.hash))
        finally:
            store.close()
        backup(repository, data, cache)

    enter(2)
    deep(repository)
    assert restore(repository, tmp_path / "same").spared == 59
    enter(3)
    assert restore(repository, tmp_path / "other").spared == 0


@given(data=st.data())
def test_no_byte_of_a_record_can_change(data: st.DataObject) -> None:
    record = Record(
        format=layout.FORMAT,
        chain=GENESIS.chain_id,
        genesis=sha256(GENESIS.document).hexdigest(),
        epoch=None,
        height=3,
        hash="a" * 64,
        stretch=proof.STRETCH,
        digests="A" * 43 + "=",
        validator="node2",
        created="2030-01-01T00:00:00+00:00",
    )
    raw = bytearray(signed.dump(record, KEY))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[at]))
    name = f"{layout.SIGNATURES}20300101T000000Z-{sha256(raw).hexdigest()}.json"
    with pytest.raises(Damaged):
        signed.load(bytes(raw), name, GENESIS)


def test_the_name_is_that_of_the_content(stored: Repository) -> None:
    deep(stored)
    raw = signed.dump(taken(stored), KEY)
    name = f"{layout.SIGNATURES}20300101T000000Z-{'0' * 64}.json"
    with pytest.raises(Damaged, match="in its name"):
        signed.load(raw, name, GENESIS)


def test_a_proof_that_left_signatures_out_is_never_recorded(stored: Repository, data: Path) -> None:
    deep(stored)
    taken(stored)
    proven = walk.prove(data / "rocksdb", GENESIS, 1)
    with pytest.raises(ValueError, match="must not be recorded"):
        signed.write(stored, replace(proven, spared=1), KEY)
    assert written(stored) == []


@pytest.mark.parametrize("key", [None, STRANGER])
def test_only_a_validator_records(stored: Repository, caplog: pytest.LogCaptureFixture, key: SigningKey | None) -> None:
    with caplog.at_level(logging.WARNING):
        deep(stored, key)
    assert written(stored) == []
    assert (key is None) == ("not a validator's" not in caplog.text)


def test_a_failed_verification_records_nothing(stored: Repository, data: Path, cache: Path) -> None:
    forge(data, 5)
    backup(stored, data, cache)
    report = verifying.verify(stored, verifying.Depth(deep=True), restoring.Tools(None, key=KEY))
    assert not report.ok
    assert written(stored) == []


def test_a_verification_stands_where_the_store_takes_no_record(
    stored: Repository, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = stored.target.put

    def refuse(key: str, *arguments: object, **more: object) -> Stat:
        if key.startswith(layout.SIGNATURES):
            raise AccessRefused("may not write there")
        return real(key, *arguments, **more)  # type: ignore[arg-type]  # as given

    monkeypatch.setattr(stored.target, "put", refuse)
    with caplog.at_level(logging.WARNING):
        deep(stored)
    assert "may not write there" in caplog.text


@pytest.mark.parametrize("call", ["list", "get"])
def test_records_that_cannot_be_read_stop_no_restore(
    stored: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    deep(stored)
    real = getattr(stored.target, call)

    def fail(key: str, *arguments: object) -> object:
        if key.startswith(layout.SIGNATURES):
            raise TargetError("the store cannot be reached")
        return real(key, *arguments)

    monkeypatch.setattr(stored.target, call, fail)
    with caplog.at_level(logging.WARNING):
        assert restore(stored, tmp_path / "live").spared == 0
    assert "the store cannot be reached" in caplog.text


def test_the_newest_that_hold_stay_when_a_prune_runs(stored: Repository) -> None:
    deep(stored)
    record = taken(stored)
    good = [put(stored, signed.dump(structs.replace(record, created=str(day)), KEY), day) for day in range(1, 7)]
    bad = put(stored, signed.dump(record, STRANGER), 9)
    other = f"{layout.SIGNATURES}some.json"
    stored.target.put(other, b"of another tool")
    prune(stored, Policy(days=0), grace=0)
    assert len(written(stored)) == 8, "marked first"
    prune(stored, Policy(days=0), grace=0)
    assert written(stored) == [*good[-KEPT:], other]
    assert bad not in written(stored)


def test_records_dated_ahead_displace_no_later_one(stored: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    deep(stored)
    (honest,) = written(stored)
    record = signed.load(bytes(stored.target.get(honest)), honest, GENESIS)
    ahead = [put(stored, signed.dump(structs.replace(record, created=str(day)), KEY), day) for day in range(1, 6)]
    assert [stat.key for stat in signed.newest(stored)] == [honest, *ahead[:1:-1]]
    with monkeypatch.context() as patch:
        patch.setattr(stored.target, "independent_clock", True)
        patch.setattr(stored.target, "now", lambda: 2_000_000_000.0)
        assert honest not in {stat.key for stat in signed.newest(stored)}, "by the store's clock they are not ahead"
    for _ in range(2):
        prune(stored, Policy(days=0), grace=0)
    assert written(stored) == [honest, *ahead[2:]]


@pytest.mark.parametrize("now", [253_402_300_799.0, 1e20, -1e20, float("nan")])
def test_a_store_whose_date_is_no_time_is_not_asked_for_it(
    stored: Repository, monkeypatch: pytest.MonkeyPatch, now: float
) -> None:
    """The year 9999 has no day after it."""
    deep(stored)
    monkeypatch.setattr(stored.target, "independent_clock", True)
    monkeypatch.setattr(stored.target, "now", lambda: now)
    assert [stat.key for stat in signed.newest(stored)] == written(stored)


def test_the_command_signs_with_the_key_that_it_is_given(goud_backup: Command, tmp_path: Path) -> None:
    KEY.save(tmp_path / "node.key")
    goud_backup("init")
    goud_backup("create", "--json")
    goud_backup("verify", "--deep", "--no-record", "--key", str(tmp_path / "node.key"))
    folder = tmp_path / "repository" / "signatures"
    assert not folder.exists()
    goud_backup("verify", "--key", str(tmp_path / "none.key"))
    goud_backup("verify", "--deep", "--key", str(tmp_path / "none.key"), code=exits.CODES["configuration"][0])
    assert "none.key" in goud_backup.error
    goud_backup("verify", "--deep", "--key", str(tmp_path / "node.key"))
    assert len(list(folder.iterdir())) == 1
    (tmp_path / "live").mkdir()
    done = goud_backup("restore", "--data-dir", str(tmp_path / "live"), "--yes", "--json")
    assert done["spared"] == 58, "all below the last certified block"


def test_an_archive_is_taken_in_by_the_record(goud_backup: Command, tmp_path: Path, checked: list[int]) -> None:
    KEY.save(tmp_path / "node.key")
    goud_backup("init")
    goud_backup("create")
    goud_backup("verify", "--deep", "--key", str(tmp_path / "node.key"))
    archive = goud_backup("export", "--to", str(tmp_path / "archives"), "--json")["archive"]
    checked.clear()
    goud_backup("import", archive)
    assert checked == [59, 60]
    checked.clear()
    (tmp_path / "live").mkdir()
    goud_backup("restore-archive", archive, "--data-dir", str(tmp_path / "live"), "--yes")
    assert checked == list(range(1, 61)), "there is no repository to ask"
