"""The command line as a timer and a person use it: output, exit codes, a sentence for every failure."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyrage
import pytest

from goud_backup import cli, plan
from goud_backup.cli import exits
from goud_backup.cli.main import COMMANDS, command
from goud_backup.repository import locks
from goud_backup.targets import open_target

from .command import Command
from .support import GENESIS, grow, tip_of


def test_from_nothing_to_a_restore(goud_backup: Command, tmp_path: Path, data: Path) -> None:
    assert goud_backup("init")["chain"] == GENESIS.chain_id
    goud_backup("init", code=5)
    first = goud_backup("create")
    assert (first["height"], first["event"]) == (60, "backup")
    grow(data, 20)
    shipped = goud_backup("ship", "--data-dir", str(data), "--json")
    assert (shipped["first"], shipped["last"]) == (60, 80)
    assert goud_backup("ship", "--data-dir", str(data))["blocks"] == 0
    second = goud_backup("create", "--json")
    assert [row["id"] for row in goud_backup("list", "--json")] == [first["id"], second["id"]]
    shown = goud_backup("show", "latest", "--json")
    assert shown["previous"] == first["id"]
    assert {"path": "chain_id", "size": 22} in shown["files"]
    assert goud_backup("verify", "--json")["ok"]
    assert goud_backup("verify", "--deep", "--json", "--scratch", str(tmp_path))["height"] == 80
    status = goud_backup("status", "--json")
    assert (status["backups"], status["recovery_height"], status["shipped_ranges"]) == (2, 80, [[60, 80]])
    assert status["verified"].startswith("ok (deep")
    told = goud_backup("restore", first["id"], "--to-height", "70", "--json")
    assert (told["to_height"], told["live_height"], told["live_blocks_not_in_the_restore"]) == (70, 80, 10)
    assert tip_of(data).height == 80, "a plan does nothing"
    done = goud_backup("restore", "--to-height", "70", "--yes")
    assert done["height"] == 70
    assert tip_of(data).height == 70
    goud_backup("undo")
    assert tip_of(data).height == 80
    assert goud_backup("cleanup")["removed"]
    goud_backup("keep", first["id"])
    dry = goud_backup("prune", "--keep-days", "0", "--dry-run", "--json")
    assert goud_backup("prune", "--keep-days", "0", "--json") == {**dry, "dry_run": False}
    assert set(dry["keep"]) == {first["id"], second["id"]}
    made = goud_backup("export", "--to", str(tmp_path / "backups"), "-e", "gcp")
    assert made["archive"].startswith(str(tmp_path / "backups/goud-chain-backup-gcp-"))
    assert goud_backup("restore-archive", made["archive"])["live_height"] == 80
    grow(data, 5)
    assert goud_backup("restore-archive", made["archive"], "--yes")["height"] == 80
    assert tip_of(data).height == 80
    imported = goud_backup("import", made["archive"], "--scratch", str(tmp_path))
    assert (imported["height"], imported["sequence"]) == (80, 3)


def test_failures_are_sentences_with_codes(goud_backup: Command, tmp_path: Path, data: Path) -> None:
    goud_backup("create", code=4)
    assert "goud-backup init" in goud_backup.error
    goud_backup("init")
    goud_backup("restore", code=16)
    goud_backup("create", "--secret", str(tmp_path / "x"), code=22)
    goud_backup("create", "--data-dir", str(tmp_path / "nowhere"), code=3)
    (tmp_path / "empty").mkdir()
    goud_backup("create", "--data-dir", str(tmp_path / "empty"), code=21)
    goud_backup("create", "--node-url", "http://127.0.0.1:9", code=3)
    assert "--node, --key" in goud_backup.error
    goud_backup("ship", code=3)
    goud_backup("create")
    goud_backup("restore", "--to-height", "61", code=17)
    goud_backup("restore", "--to-time", "yesterday", code=3)
    goud_backup("restore", "--to-time", "2026-01-01", "--to-height", "3", code=3)
    goud_backup("list", "-r", "http://x", code=3)
    target = open_target(f"file://{tmp_path}/repository")
    with locks.Lock(target, locks.BACKUP, "somebody"):
        goud_backup("create", code=6)
        assert "somebody on" in goud_backup.error
        goud_backup("unlock", code=6)
        assert goud_backup("unlock", "--force")["removed"]
    (manifest,) = (tmp_path / "repository/manifests").iterdir()
    manifest.write_bytes(b"{")
    goud_backup("list", code=10)
    goud_backup("verify", code=11)
    assert manifest.name in goud_backup.error
    goud_backup("restore", "--yes", code=10)
    goud_backup("prune", code=11)
    (data / "chain_id").write_text("goud-other\n")
    goud_backup("create", code=18)


def test_encrypted(goud_backup: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "identity").write_text(f"{identity}\n")
    monkeypatch.setenv("GOUD_BACKUP_RECIPIENTS", str(identity.to_public()))
    assert goud_backup("init")["encryption"] == "age"
    goud_backup("create")
    assert goud_backup("show", "latest", "--json")["files"] is None
    goud_backup("restore", "--yes", code=12)
    goud_backup("restore", "--yes", "--identity", str(tmp_path / "identity"))
    assert goud_backup("verify")["ok"]


def test_a_terminal_gets_tables_and_a_bar(goud_backup: Command) -> None:
    goud_backup("init")
    shown = on_a_terminal("create")
    assert "new bytes" in shown
    assert '{"event"' not in shown
    made = on_a_terminal("list")
    assert "verified" in made
    assert goud_backup("show", "latest")["id"] in made


def on_a_terminal(*arguments: str) -> str:
    """What a person sees."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "goud_backup.cli", *arguments]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env={**os.environ, "COLUMNS": "120"}) as process:
        os.close(theirs)
        shown = bytearray()
        with suppress(OSError):  # the other side is closed: that is how a terminal ends
            while chunk := os.read(ours, 4096):
                shown += chunk
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode()


def test_every_command_explains_itself_and_every_code_is_documented(
    goud_backup: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in COMMANDS:
        assert command(name).__doc__, name
        monkey = [name, "--help"]
        sys.argv = ["goud-backup", *monkey]
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
        assert "Usage" in capsys.readouterr().out
    assert goud_backup.folder.is_dir()
    numbers = [number for number, _ in exits.CODES.values()]
    assert len(set(numbers)) == len(numbers)
    for number in numbers:
        assert f"**{number}**" in exits.epilog()


def test_a_schema_that_is_not_ours_is_named_before_anything_stops(
    goud_backup: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goud_backup("init")
    goud_backup("create")
    made = goud_backup("export", "--to", str(tmp_path / "backups"))
    monkeypatch.setattr(plan, "SCHEMA_VERSION", 2)
    for restore in (["restore-archive", made["archive"]], ["restore"]):
        goud_backup(*restore, code=20)
        assert "schema version 1, this node needs 2" in goud_backup.error
    assert goud_backup("restore", "--reinitialize")["to_height"] == 0
    kept = goud_backup("restore-archive", made["archive"], "--reinitialize", "--yes")
    assert (kept["height"], kept["how"]) == (0, "begun again at the genesis block")
    assert Path(kept["kept"]).is_dir()


@pytest.mark.parametrize("fault", ["missing", "cut short"])
def test_status_tells_that_the_newest_backup_lacks_an_object(goud_backup: Command, fault: str) -> None:
    goud_backup("init")
    goud_backup("create")
    assert goud_backup("status", "--json")["problem"] is None
    stored = next(path for path in (goud_backup.folder / "repository" / "objects").rglob("*") if path.is_file())
    stored.rename(stored.with_suffix(".away")) if fault == "missing" else os.truncate(stored, 10)
    assert stored.name in goud_backup("status", "--json", code=10)["problem"]
