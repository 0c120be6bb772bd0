"""`goud-node epoch`: a restored node's epoch is settled before it is served."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.etcd import EtcdKv
from goud_node.agreement.kv import Delete, Kv, Txn
from goud_node.agreement.sequencer import Sequencer, State
from goud_node.chain import genesis as genesis_document
from goud_node.chain.block import Block, build
from goud_node.chain.keys import SigningKey
from goud_node.chain.ledger import Epoch, Ledger
from goud_node.chain.transactions import AccountCreate
from goud_node.chain.volume import open_volume
from goud_node.cli import exits
from goud_node.errors import CoordinationFull
from goud_node.service import ordering
from goud_node.settings import Settings
from goud_node.store import SCHEMA_KEY, Batch, Family, RocksStore
from node.tests.agreement.etcd_cluster import Cluster, running

from .support import MakeSettings, environment, free_port, run

pytestmark = pytest.mark.programs

RunNode = Callable[[Settings], AbstractContextManager[Any]]
Verb = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def epoch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verb:
    """Exit code, answer and error of `goud-node epoch <arguments> --json`."""

    def call(settings: Settings, *arguments: str, **overrides: str) -> tuple[int, Any, str]:
        words = ("epoch", *arguments, "--json")
        code, out, err = run(monkeypatch, capsys, *words, **environment(settings, **overrides))
        assert "Traceback" not in err
        return code, json.loads(out) if code == 0 else out, err

    return call


def account(number: int) -> bytes:
    return AccountCreate(f"account-{number}", bytes([number]) * 32, bytes(32), 1).encode()


def extended(settings: Settings, ledger: Ledger, number: int) -> Block:
    """A block on the tip; another number makes another block."""
    key = SigningKey.load(settings.node_key_file)
    at = ledger.tip.timestamp_ms + 1
    return build(ledger.tip, [account(number)], proposer=settings.node_id, timestamp_ms=at, key=key)


def prepared(settings: Settings, work: Callable[[RocksStore, Ledger], None]) -> None:
    """Do something to a stopped node's database."""
    genesis = genesis_document.load(settings.genesis_file)
    store, ledger = open_volume(settings.data_dir, genesis, must_be_mount=False)
    try:
        work(store, ledger)
    finally:
        store.close()


def grown(settings: Settings, blocks: int, epoch: Epoch | None = None) -> None:
    """Blocks in the ledger, as a restore leaves them: the database's own log knows nothing of them."""

    def work(_store: RocksStore, ledger: Ledger) -> None:
        for number in range(1, blocks + 1):
            ledger.append([extended(settings, ledger, number)])
        if epoch is not None:
            ledger.set_epoch(epoch)

    prepared(settings, work)


def write(live: Any, *numbers: int) -> None:
    for number in numbers:
        live.call(live.node.replica.submit(account(number)))


def test_a_cluster_node_s_backup_is_served_by_itself(
    make_settings: MakeSettings, epoch: Verb, run_node: RunNode
) -> None:
    settings = make_settings()
    grown(settings, 3, Epoch(6, 0, genesis_document.load(settings.genesis_file).block().hash))
    code, answer, _ = epoch(settings, "show")
    assert (code, answer["relation"], answer["node_epoch"], answer["log_epoch"]) == (0, "empty", 6, None)
    code, answer, _ = epoch(settings, "start", "--if-needed", "--yes")
    assert code == 0
    assert {name: answer[name] for name in ("action", "epoch", "base_height", "height", "left_behind")} == {
        "action": "started",
        "epoch": 7,
        "base_height": 3,
        "height": 3,
        "left_behind": 0,
    }
    assert answer["base_hash"] == answer["tip_hash"]
    with run_node(settings) as live:
        assert live.node.replica.status.epoch == 7
        write(live, 9)
        assert live.node.ledger.height == 4


def test_chain_and_log_restored_together_need_nothing(
    make_settings: MakeSettings, epoch: Verb, run_node: RunNode
) -> None:
    settings = make_settings()
    with run_node(settings) as live:
        write(live, 1, 2)
    code, answer, _ = epoch(settings, "start", "--if-needed", "--yes")
    assert (code, answer["action"], answer["epoch"], answer["log_head_height"]) == (0, "continued", 1, 2)
    code, answer, _ = epoch(settings, "start", "--yes")
    assert (code, answer["action"], answer["epoch"], answer["log_epoch"]) == (0, "started", 2, 1)
    with run_node(settings) as live:
        write(live, 3)
        assert (live.node.replica.status.epoch, live.node.ledger.height) == (2, 3)


def test_a_contradiction_is_refused_unless_told(make_settings: MakeSettings, epoch: Verb) -> None:
    settings = make_settings()

    def work(store: RocksStore, ledger: Ledger) -> None:
        async def order(block: Block) -> None:
            log = Sequencer(EmbeddedKv(store), ledger.genesis.chain_id, settings.node_id)
            first = Epoch(1, 0, ledger.tip.hash)
            await log.begin_epoch(first, State(None, None, None))
            term = await log.campaign(first, 60)
            assert term is not None
            await log.commit(term, block)

        asyncio.run(order(extended(settings, ledger, 1)))
        ledger.append([extended(settings, ledger, 2)])

    prepared(settings, work)
    assert epoch(settings, "show")[1]["relation"] == "conflict"
    code, _, err = epoch(settings, "start", "--if-needed", "--yes")
    assert (code, "goud-node: epoch-mismatch: " in err) == (exits.CODES["epoch-mismatch"][0], True)
    assert epoch(settings, "show")[1]["log_epoch"] == 1
    assert epoch(settings, "start", "--yes")[1]["action"] == "started"


@pytest.mark.parametrize("arguments", [("show",), ("start", "--yes"), ("start", "--yes", "--if-needed")])
def test_a_running_node_is_refused(make_settings: MakeSettings, epoch: Verb, arguments: tuple[str, ...]) -> None:
    settings = make_settings()
    holder = RocksStore.open(settings.database_dir)
    try:
        code, _, err = epoch(settings, *arguments)
        assert (code, "in use by another process" in err) == (exits.CODES["store"][0], True)
    finally:
        holder.close()


@pytest.mark.parametrize("arguments", [("show",), ("start", "--yes"), ("start", "--yes", "--if-needed")])
def test_without_a_majority_it_says_so(make_settings: MakeSettings, epoch: Verb, arguments: tuple[str, ...]) -> None:
    settings = make_settings()
    nobody = f"127.0.0.1:{free_port()}"
    code, _, err = epoch(settings, *arguments, GOUD_ETCD_ENDPOINTS=nobody)
    assert code == exits.CODES["unavailable"][0]
    (sentence,) = [line for line in err.splitlines() if line.startswith("goud-node: ")]
    assert sentence.startswith("goud-node: unavailable: ")
    assert nobody in sentence
    assert "majority" in sentence
    assert epoch(settings, "show")[1]["relation"] == "empty", "the database is free again, and unchanged"


@pytest.mark.parametrize("word", ["", "n\n"])
def test_nothing_happens_without_consent(
    make_settings: MakeSettings, epoch: Verb, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    settings = make_settings()
    monkeypatch.setattr(sys, "stdin", io.StringIO(word))
    assert epoch(settings, "start")[0] == exits.OTHER
    assert epoch(settings, "show")[1]["log_epoch"] is None


def test_another_schema_is_never_moved_aside(make_settings: MakeSettings, epoch: Verb) -> None:
    settings = make_settings()
    store = RocksStore.open(settings.database_dir)
    batch = Batch()
    batch.put(Family.METADATA, SCHEMA_KEY, b"99")
    store.write(batch)
    store.close()
    before = sorted(path.name for path in settings.data_dir.iterdir())
    assert epoch(settings, "show", GOUD_SCHEMA_POLICY="reinitialize")[0] == exits.CODES["schema-mismatch"][0]
    assert sorted(path.name for path in settings.data_dir.iterdir()) == before


class Full(EmbeddedKv):
    """A log under a space alarm."""

    alarm = True

    async def txn(self, compares: Any, then: Any) -> Txn:
        if self.alarm:
            raise CoordinationFull("no space")
        return await super().txn(compares, then)

    async def compact_and_reclaim(self) -> None:
        self.alarm = False


def test_space_is_reclaimed_because_no_node_runs_to_do_it(
    make_settings: MakeSettings, epoch: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    monkeypatch.setattr(ordering, "connect", lambda _settings, store: Full(store))
    assert epoch(settings, "start", "--yes")[1]["action"] == "started"

    async def in_vain(_self: Full) -> None:
        return None

    monkeypatch.setattr(Full, "compact_and_reclaim", in_vain)
    assert epoch(settings, "start", "--yes")[0] == exits.CODES["coordination-full"][0]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running() as cluster:
        yield cluster


class Restored:
    """A node on real etcd that was put back to an earlier moment, with everything the log went through since."""

    def __init__(self, settings: Settings, endpoints: list[str], run_node: RunNode, aside: Path) -> None:
        self.settings, self.endpoints, self.run_node = settings, endpoints, run_node
        self.chain_id = genesis_document.load(settings.genesis_file).chain_id
        with run_node(settings) as live:
            write(live, 1, 2, 3)
        shutil.copytree(settings.database_dir, aside)
        with run_node(settings) as live:
            write(live, 4, 5, 6)
        shutil.rmtree(settings.database_dir)
        shutil.copytree(aside, settings.database_dir)

    def log(self, work: Callable[[Kv, Sequencer], Any]) -> Any:
        async def run() -> Any:
            kv = EtcdKv(self.endpoints)
            try:
                return await work(kv, Sequencer(kv, self.chain_id, "other"))
            finally:
                await kv.close()

        return asyncio.run(run())


@pytest.fixture
def restored(make_settings: MakeSettings, cluster: Cluster, run_node: RunNode, tmp_path: Path) -> Restored:
    settings = make_settings(etcd_endpoints=tuple(cluster.endpoints))
    return Restored(settings, cluster.endpoints, run_node, tmp_path / "aside")


@pytest.fixture
def settle(epoch: Verb, restored: Restored) -> Verb:
    def call(*arguments: str, **overrides: str) -> tuple[int, Any, str]:
        return epoch(restored.settings, *arguments, GOUD_ETCD_ENDPOINTS=",".join(restored.endpoints), **overrides)

    return call


def told(answer: dict[str, Any]) -> tuple[Any, ...]:
    names = ("action", "relation", "epoch", "base_height", "left_behind", "log_epoch", "log_head_height")
    return tuple(answer[name] for name in names)


@pytest.mark.etcd
def test_on_etcd_the_tail_is_taken_in_the_same_epoch(restored: Restored, settle: Verb) -> None:
    code, answer, _ = settle("start", "--if-needed", "--yes")
    assert (code, *told(answer)) == (0, "continued", "continues", 1, 0, 0, 1, 6)
    with restored.run_node(restored.settings) as live:
        assert (live.node.replica.status.epoch, live.node.ledger.height) == (1, 6)


@pytest.mark.etcd
def test_on_etcd_a_gap_begins_a_new_epoch(restored: Restored, settle: Verb) -> None:
    async def trim(_kv: Kv, log: Sequencer) -> None:
        epoch = (await log.state()).epoch
        assert epoch is not None
        await log.trim(epoch, 4)

    restored.log(trim)
    code, answer, _ = settle("start", "--if-needed", "--yes")
    assert (code, *told(answer)) == (0, "started", "gap", 2, 3, 2, 1, 6)
    with restored.run_node(restored.settings) as live:
        write(live, 7)
        assert (live.node.replica.status.epoch, live.node.ledger.height) == (2, 4)


@pytest.mark.etcd
def test_on_etcd_a_lost_log_begins_at_the_restored_tip(restored: Restored, settle: Verb) -> None:
    async def lose(kv: Kv, _log: Sequencer) -> None:
        await kv.txn([], [Delete(b"/", b"0")])

    restored.log(lose)
    code, answer, _ = settle("start", "--if-needed", "--yes")
    assert (code, *told(answer)) == (0, "started", "empty", 2, 3, 0, None, None)
    with restored.run_node(restored.settings) as live:
        write(live, 7)
        assert (live.node.replica.status.epoch, live.node.ledger.height) == (2, 4)


@pytest.mark.etcd
def test_on_etcd_an_earlier_tip_on_purpose(restored: Restored, settle: Verb) -> None:
    code, answer, _ = settle("start", "--yes")
    assert (code, *told(answer)) == (0, "started", "continues", 2, 3, 3, 1, 6)
    with restored.run_node(restored.settings) as live:
        assert (live.node.replica.status.epoch, live.node.ledger.height) == (2, 3)


@pytest.mark.etcd
def test_on_etcd_a_proposer_that_runs_is_named(restored: Restored, settle: Verb) -> None:
    async def lead(_kv: Kv, log: Sequencer) -> None:
        state = await log.state()
        assert state.epoch is not None
        if state.leader is not None:
            await log.remove_leader(state.leader)  # the lease of the node that was stopped a moment ago
        assert await log.campaign(state.epoch, 60) is not None

    restored.log(lead)
    code, _, err = settle("start", "--yes", GOUD_LEASE_SECONDS="1")
    assert (code, "other is the proposer" in err) == (exits.CODES["proposer-runs"][0], True)
    assert settle("show")[1]["log_epoch"] == 1


@pytest.mark.etcd
def test_on_etcd_a_member_alone_decides_nothing(restored: Restored, settle: Verb, cluster: Cluster) -> None:
    for name in cluster.names[1:]:
        cluster.kill(name)
    try:
        for arguments in (("show",), ("start", "--if-needed", "--yes"), ("start", "--yes")):
            code, _, err = settle(*arguments)
            assert (code, "goud-node: unavailable: " in err) == (exits.CODES["unavailable"][0], True)
    finally:
        cluster.heal()
    answer = settle("show")[1]
    assert (answer["relation"], answer["node_id"]) == ("continues", restored.settings.node_id)
