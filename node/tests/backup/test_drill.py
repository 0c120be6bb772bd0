"""Drills on real nodes: green when a restore would work, red for everything that would keep it from working."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyrage
import pytest

from goud_backup import create as creating
from goud_backup import restore as restoring
from goud_backup.codec.sealing import Opener
from goud_backup.drill import Report, child, perform
from goud_backup.drill.perform import Expected, ask
from goud_backup.drill.room import PREFIX, room
from goud_backup.errors import Damaged, InUse, Missing, NodeFailed, NoSpace, NoSuchBackup, NotVerified, WrongIdentity
from goud_backup.plan import How
from goud_backup.repository import layout
from goud_backup.repository.repository import Repository, initialize
from goud_backup.source import DirectorySource
from goud_backup.targets import open_target
from goud_backup.verify import Depth, verify
from goud_node.chain import genesis as documents
from goud_node.errors import ConfigurationError, GoudError, WrongChain
from goud_node.settings import Settings

from .support import GENESIS, backup, grow, make_repository, ship, tip_of
from .test_verify import flipped, largest, latest_key, replace, rewritten

IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    found = tmp_path / "scratch"
    found.mkdir()
    return found


def drill(repository: Repository, scratch: Path, wanted: str = "latest", opener: Opener | None = None) -> Report:
    """A drill, after which the scratch is empty however it ends."""
    report = Report(repository.url, "node3")
    try:
        perform(repository, wanted, scratch, restoring.Tools(opener), report)
    finally:
        assert list(scratch.iterdir()) == []
    return report


def test_what_would_come_back_is_served(history: Repository, grown: Path, scratch: Path) -> None:
    report = drill(history, scratch)
    tip, manifest = tip_of(grown), history.find("latest")
    assert (report.height, report.tip_hash, report.how) == (130, tip.hash.hex(), How.REPLAY.value)
    assert [(one["height"], one["hash"]) for one in report.compared_with] == [
        (100, manifest.chain.tip_hash),
        (130, tip.hash.hex()),
    ]
    assert report.backup is not None
    assert (report.backup["id"], report.backup["height"]) == (manifest.id, 100)
    assert report.recovery_point["timestamp_ms"] == tip.timestamp_ms
    phases = report.recovery_time
    assert list(phases) == ["fetch", "prove", "start", "answer", "total"]
    assert phases["total"] == pytest.approx(sum(phases[name] for name in phases if name != "total"))
    check = history.checks()[manifest.id]
    assert (check["ok"], check["level"]) == (True, "deep")
    alone = drill(history, scratch, manifest.id)
    assert (alone.height, alone.segments, alone.how) == (100, 0, How.BACKUP.value)


def test_encrypted_and_from_segments_alone(tmp_path: Path, data: Path, cache: Path, scratch: Path) -> None:
    sealed = make_repository(tmp_path / "sealed", (RECIPIENT,))
    ship(sealed, data, (RECIPIENT,))
    opener = Opener([IDENTITY])
    report = drill(sealed, scratch, "latest", opener)
    assert (report.height, report.backup, report.how) == (59, None, How.SEGMENTS.value)
    backup(sealed, data, cache, (RECIPIENT,))
    assert drill(sealed, scratch, "latest", opener).height == 60
    for wrong in (None, Opener([pyrage.x25519.Identity.generate()])):
        with pytest.raises(WrongIdentity):
            drill(sealed, scratch, "latest", wrong)


def test_a_chain_that_a_single_node_ordered(
    tmp_path: Path,
    make_settings: Callable[..., Settings],
    run_node: Callable[[Settings], AbstractContextManager[Any]],
    cache: Path,
    scratch: Path,
) -> None:
    settings = make_settings()
    with run_node(settings) as live, live.client() as client:
        for _ in range(3):
            assert client.post("/api/accounts").status_code == 201
        tip = client.get("/health").json()["latest_block"]
    repository = initialize(open_target(f"file://{tmp_path}/r"), documents.load(settings.genesis_file), encrypted=False)
    creating.create(repository, DirectorySource(settings.data_dir), creating.Options(cache_dir=cache))
    report = drill(repository, scratch)
    assert (report.height, report.tip_hash) == (tip["height"], tip["hash"])


@pytest.mark.parametrize("kind", ["flip", "cut", "remove"])
def test_an_object(history: Repository, scratch: Path, kind: str) -> None:
    key = layout.object_key(largest(history))
    if kind == "remove":
        history.target.delete(key)
    else:
        replace(history, key, flipped if kind == "flip" else lambda content: content[:-9])
    with pytest.raises((Damaged, Missing), match=key.rpartition("/")[2]):
        drill(history, scratch)
    assert history.checks() == {}


def foreign(document: dict[str, Any]) -> None:
    document["chain"]["id"] = "goud-ffffffffffffffff"


def forged(document: dict[str, Any]) -> None:
    raw = bytearray(base64.b64decode(document["chain"]["certificate"]))
    raw[-5] ^= 1
    document["chain"]["certificate"] = base64.b64encode(raw).decode()


@pytest.mark.parametrize(
    ("change", "error"),
    [(lambda content: content[:-40], Damaged), (rewritten(foreign), WrongChain), (rewritten(forged), NotVerified)],
    ids=["cut", "of another chain", "forged certificate"],
)
def test_a_manifest(
    history: Repository, scratch: Path, change: Callable[[bytes], bytes], error: type[GoudError]
) -> None:
    key = latest_key(history)
    backup_id = history.find("latest").id
    replace(history, key, change)
    with pytest.raises(error, match=backup_id):
        drill(history, scratch)
    assert history.checks() == {}


@pytest.mark.parametrize("wanted", ["latest", "alone"])
def test_a_tip_that_is_not_the_manifests(history: Repository, scratch: Path, wanted: str) -> None:
    def change(document: dict[str, Any]) -> None:
        document["chain"] |= {"tip_hash": "00" * 32, "tip_certificate": None}

    replace(history, latest_key(history), rewritten(change))
    with pytest.raises(NotVerified, match="not what its manifest says"):
        drill(history, scratch, "latest" if wanted == "latest" else history.find("latest").id)
    assert history.checks() == {}


class Answers:
    """A node that serves something else."""

    def __init__(self, height: int = 9, tip: str = "aa", chain: str = "c", block: str = "bb") -> None:
        health = {"chain_id": chain, "latest_block": {"height": height, "hash": tip}}
        self._pages: dict[str, dict[str, Any]] = {
            "/health": health,
            "/api/blocks/9": {"hash": tip},
            "/api/blocks/5": {"hash": block},
        }

    def get(self, path: str) -> dict[str, Any]:
        return self._pages[path]


def test_what_is_served_is_compared() -> None:
    report = Report("r", "node3", chain="c")
    expected = [Expected(5, "bb", "the manifest"), Expected(9, "aa", "the segment")]
    ask(Answers(), expected, report)
    assert len(report.compared_with) == 2
    for answers, told in (
        (Answers(height=8), "ends at block 8; the segment says 9"),
        (Answers(tip="ab"), "block 9 as ab; the segment says aa"),
        (Answers(block="ab"), "block 5 as ab; the manifest says bb"),
        (Answers(chain="d"), "the chain d, not c"),
    ):
        with pytest.raises(NotVerified, match=told):
            ask(answers, expected, report)
    with pytest.raises(NodeFailed, match="not known here"):
        ask(Answers(), [Expected(6, "bb", "the manifest"), *expected], report)


def test_no_room(history: Repository, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(NoSpace, match="is full"):
            drill(history, scratch)
    monkeypatch.setattr("goud_backup.staging.RESERVE_BYTES", 1 << 60)
    with pytest.raises(NoSpace, match="Nothing was written"):
        drill(history, scratch)


def test_damaged_secrets_end_it_and_stay_noted(tmp_path: Path, data: Path, cache: Path, scratch: Path) -> None:
    """A restore needs them; and a success would take back what a verification has noted."""
    repository, tools = make_repository(tmp_path / "sealed", (RECIPIENT,)), restoring.Tools(Opener([IDENTITY]))
    first = backup(repository, data, cache, (RECIPIENT,))
    secret = tmp_path / "operator.key"
    secret.write_bytes(b"k" * 64)
    second = backup(repository, data, cache, (RECIPIENT,), secrets=[secret])
    assert drill(repository, scratch, opener=tools.opener).height == 60
    (name,) = set(second.objects) - set(first.objects)
    replace(repository, layout.object_key(name), flipped)
    assert not verify(repository, Depth(), tools).ok
    noted = repository.checks()
    with pytest.raises(Damaged, match=name):
        drill(repository, scratch, opener=tools.opener)
    assert repository.checks() == noted
    drill(repository, scratch, first.id, tools.opener)
    assert repository.checks()[second.id] == noted[second.id]


def test_nothing_to_restore(repository: Repository, scratch: Path) -> None:
    with pytest.raises(NoSuchBackup):
        drill(repository, scratch)


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("print('no such disk'); raise SystemExit(7)", "exit code 7 instead of serving.*no such disk"),
        ("import time; time.sleep(60)", "did not answer within 1 s"),
    ],
)
def test_a_node_that_does_not_start(
    history: Repository, scratch: Path, monkeypatch: pytest.MonkeyPatch, program: str, told: str
) -> None:
    monkeypatch.setattr(child, "COMMAND", (sys.executable, "-c", program))
    monkeypatch.setattr(child, "_START_SECONDS", 1.0 if "sleep" in program else 60.0)
    with pytest.raises(NodeFailed, match=told):
        drill(history, scratch)
    assert history.checks() == {}


SERVE = "from goud_node.service import serve; from goud_node.settings import load; serve(load())"
DEAF = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}}); {SERVE}"


@pytest.mark.parametrize(
    ("program", "told"),
    [(DEAF, "did not end within 1 s of SIGTERM"), (f"{SERVE}; raise SystemExit(9)", "exit code 9 after SIGTERM")],
)
def test_a_node_that_does_not_end(
    history: Repository, scratch: Path, monkeypatch: pytest.MonkeyPatch, program: str, told: str
) -> None:
    monkeypatch.setattr(child, "COMMAND", (sys.executable, "-c", program))
    if program == DEAF:
        monkeypatch.setattr(child, "_STOP_SECONDS", 1.0)
    with pytest.raises(NodeFailed, match=told):
        drill(history, scratch)


def test_a_port_that_somebody_else_takes(history: Repository, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = child._free_ports
    with socket.create_server(("127.0.0.1", 0)) as taken:
        answers = [(taken.getsockname()[1], free()[1]), free()]
        monkeypatch.setattr(child, "_free_ports", lambda: answers.pop(0))
        assert drill(history, scratch).height == 130
    assert answers == []


def test_the_child_gets_no_credential_and_no_setting_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "GOUD_ETCD_ENDPOINTS", "GOUD_BACKUP_IDENTITY_FILE", "HTTP_PROXY"):
        monkeypatch.setenv(name, "secret")
    program = "import os, json; open('seen', 'w').write('\\n'.join(f'{k}={v}' for k, v in os.environ.items()))"
    monkeypatch.setattr(child, "COMMAND", (sys.executable, "-c", program))
    with pytest.raises(NodeFailed), child.serving(tmp_path, GENESIS):
        pass
    seen = (tmp_path / "seen").read_text()
    assert "secret" not in seen
    assert "GOUD_STANDALONE=true" in seen


@pytest.mark.parametrize("what", ["chain_id", "rocksdb"])
@pytest.mark.parametrize("where", ["is", "inside", "deep inside", "contains", "link"])
def test_a_scratch_near_live_data_is_refused(tmp_path: Path, what: str, where: str) -> None:
    live = tmp_path / "volume/data"
    (live / "below/there").mkdir(parents=True)
    (live / what).mkdir() if what == "rocksdb" else (live / what).touch()
    (tmp_path / "link").symlink_to(live / "below")
    scratch = {
        "is": live,
        "inside": live / "below",
        "deep inside": live / "below/there",
        "contains": tmp_path / "volume",
        "link": tmp_path / "link",
    }[where]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigurationError, match="never works near live data"), room(scratch):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_only_what_a_drill_left_behind_is_removed(scratch: Path, history: Repository, data: Path) -> None:
    with room(scratch) as folder:
        data.rename(folder / "data")
        with pytest.raises(InUse, match="Another drill"), room(scratch):
            pass
        kept = scratch / "goud-drill-left"
        folder.rename(kept)
        folder.mkdir()
    (scratch / "own").mkdir()
    (scratch / "own/file").touch()
    (scratch / f"{PREFIX}own").mkdir()
    with room(scratch):
        assert not kept.exists()
    assert sorted(path.name for path in scratch.iterdir()) == [f"{PREFIX}own", "own"]
    (scratch / f"{PREFIX}own/chain_id").touch()
    with pytest.raises(ConfigurationError, match="near live data"), room(scratch):
        pass
    with pytest.raises(ConfigurationError, match="does not exist"), room(scratch / "nowhere"):
        pass
    with pytest.raises(GoudError):
        perform(history, "latest", scratch, restoring.Tools(None), Report("r", "node3"))


@pytest.mark.parametrize("seen", [f"{PREFIX}*", f"{PREFIX}*/node.log"])
def test_nothing_stays_after_a_signal(history: Repository, scratch: Path, tmp_path: Path, seen: str) -> None:
    reports = tmp_path / "reports"
    reports.mkdir()
    command = [sys.executable, "-m", "goud_backup.cli", "drill", "-r", history.url, "--scratch", str(scratch)]
    process = subprocess.Popen([*command, "--report-dir", str(reports)], start_new_session=True)
    try:
        while not list(scratch.glob(seen)):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        assert list(scratch.iterdir()) == []
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        process.kill()
        process.wait()
    assert '"verdict": "failed"' in (reports / "latest.json").read_text()
    assert "ended from outside" in (reports / "latest.html").read_text()


def test_a_backup_that_grew_since(history: Repository, grown: Path, scratch: Path) -> None:
    """What is shipped while nobody looks is part of the next drill."""
    before = drill(history, scratch).height
    grow(grown, 4)
    ship(history, grown)
    assert (before, drill(history, scratch).height) == (130, 134)
