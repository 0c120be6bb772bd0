"""The files for the node exporter: written however a verb ends, and a failure takes nothing away."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

import documentation
from goud_backup import metrics
from goud_backup.metrics import FIGURES, OUTCOME, PREFIX, Textfile
from goud_backup.repository import layout
from goud_backup.repository.repository import open_repository
from goud_backup.targets import open_target
from goud_node.errors import ConfigurationError

from .command import Command
from .support import BLOCK_MS, GENESIS, grow

LAST = PREFIX + "last_success_timestamp_seconds"


def values(folder: Path, verb: str) -> dict[str, float]:
    """The metrics of a verb by name, each with that verb's label."""
    text = (folder / f"goud_backup_{verb}.prom").read_text()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert all(sample.labels == {"verb": verb} for sample in samples)
    assert text.count("# HELP") == len(samples)
    return {sample.name.removeprefix(PREFIX): sample.value for sample in samples}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "textfiles"
    found.mkdir()
    monkeypatch.setenv("GOUD_BACKUP_METRICS_DIR", str(found))
    return found


def block_time(height: int) -> float:
    return (GENESIS.created_ms + height * BLOCK_MS) / 1000


@pytest.mark.parametrize("ahead", [10, 59], ids=["fifty blocks ahead", "one block ahead"])
def test_a_block_that_is_ahead_of_the_clock_puts_no_alert_to_sleep(
    goud_backup: Command, data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    now = block_time(ahead)
    clock = SimpleNamespace(time=lambda: now, monotonic=time.monotonic)
    monkeypatch.setattr("goud_backup.cli.measuring.time", clock)
    goud_backup("init")
    goud_backup("create")
    grow(data, 5)
    goud_backup("ship", "--data-dir", str(data))
    for verb in ("create", "ship"):
        assert values(folder, verb)["recovery_point_timestamp_seconds"] == now


def test_every_verb_tells_what_it_did(goud_backup: Command, data: Path, folder: Path) -> None:
    goud_backup("init")
    made = goud_backup("create", "--json")
    found = values(folder, "create")
    assert {name: found[name] for name in ("success", "exit_code", "chosen", "height", "new_bytes", "bytes")} == {
        "success": 1, "exit_code": 0, "chosen": 1, "height": 60, "new_bytes": made["new_bytes"], "bytes": made["bytes"],
    }  # fmt: skip
    assert found["recovery_point_timestamp_seconds"] == block_time(60)
    assert found["last_success_timestamp_seconds"] == found["last_run_timestamp_seconds"]
    assert found["duration_seconds"] > 0
    grow(data, 5)
    goud_backup("ship", "--data-dir", str(data))
    shipped = values(folder, "ship")
    assert (shipped["shipped_height"], shipped["recovery_point_timestamp_seconds"]) == (65, block_time(65))
    assert goud_backup("ship", "--data-dir", str(data))["recovery_point_ms"] == block_time(65) * 1000
    again = values(folder, "ship")
    assert (again["new_bytes"], again["recovery_point_timestamp_seconds"]) == (0, block_time(65))
    goud_backup("verify")
    assert values(folder, "verify")["problems"] == 0
    goud_backup("prune", "--dry-run")
    assert not (folder / "goud_backup_prune.prom").exists()
    goud_backup("prune")
    assert values(folder, "prune")["removed"] == 0
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {f"goud_backup_{verb}.prom": 0o644 for verb in ("create", "ship", "verify", "prune")}


def test_readable_by_others_whatever_the_mask(goud_backup: Command, folder: Path) -> None:
    before = os.umask(0o077)
    try:
        goud_backup("init")
        goud_backup("create")
    finally:
        os.umask(before)
    assert (folder / "goud_backup_create.prom").stat().st_mode & 0o777 == 0o644


def test_a_failure_takes_nothing_away(goud_backup: Command, tmp_path: Path, folder: Path) -> None:
    goud_backup("init")
    goud_backup("create")
    good = values(folder, "create")
    goud_backup("create", "--data-dir", str(tmp_path / "nowhere"), code=3)
    failed = values(folder, "create")
    assert (failed["success"], failed["exit_code"], failed["chosen"]) == (0, 3, 1)
    assert failed["last_run_timestamp_seconds"] > good["last_run_timestamp_seconds"]
    for name in ("last_success_timestamp_seconds", *(FIGURES.keys() & good.keys())):
        assert failed[name] == good[name], name


def test_damage_is_counted(goud_backup: Command, tmp_path: Path, folder: Path) -> None:
    goud_backup("init")
    goud_backup("create")
    goud_backup("verify")
    repository = open_repository(open_target(f"file://{tmp_path}/repository"))
    name = next(iter(repository.find("latest").objects))
    repository.target.delete(layout.object_key(name))
    goud_backup("verify", code=11)
    found = values(folder, "verify")
    assert (found["success"], found["exit_code"], found["problems"]) == (0, 11, 1)
    assert found["last_success_timestamp_seconds"] < found["last_run_timestamp_seconds"]


@pytest.mark.parametrize("damage", ["", "nonsense", "\x00\xff", f'{LAST}{{verb="create"}} many\n', "goud{", "# HELP"])
def test_a_damaged_former_file_is_not_fatal(folder: Path, damage: str) -> None:
    (folder / "goud_backup_create.prom").write_bytes(damage.encode("latin-1"))
    Textfile(folder, "create").write(7, 1.0, {}, chosen=True)
    assert "last_success_timestamp_seconds" not in values(folder, "create")


def test_not_chosen_is_no_success(goud_backup: Command, folder: Path) -> None:
    Textfile(folder, "ship").write(0, 1.0, {}, chosen=False)
    assert values(folder, "ship").keys() == {"last_run_timestamp_seconds", "chosen"}
    assert values(folder, "ship")["chosen"] == 0
    Textfile(folder, "ship").write(0, 1.0, {"shipped_height": 9}, chosen=True)
    good = values(folder, "ship")
    Textfile(folder, "ship").write(0, 1.0, {}, chosen=False)
    after = values(folder, "ship")
    assert after.keys() == {
        "last_run_timestamp_seconds", "chosen", "last_success_timestamp_seconds", "shipped_height",
    }  # fmt: skip
    assert after["last_success_timestamp_seconds"] == good["last_success_timestamp_seconds"]
    goud_backup("init")
    goud_backup("create", "--candidate", "node1=http://127.0.0.1:9", "--node", "node1", code=23)
    assert values(folder, "create").keys() == {"last_run_timestamp_seconds", "duration_seconds", "exit_code", "success"}


def test_a_directory_that_cannot_be_written_is_told_before_the_work(
    goud_backup: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goud_backup("init")
    monkeypatch.setenv("GOUD_BACKUP_METRICS_DIR", str(tmp_path / "nowhere"))
    goud_backup("create", code=3)
    assert "GOUD_BACKUP_METRICS_DIR" in goud_backup.error
    assert goud_backup("list", "--json") == []
    with pytest.raises(ConfigurationError):
        Textfile(tmp_path / "nowhere", "create")


def test_every_metric_is_documented() -> None:
    page = (documentation.ROOT / "docs/backup-metrics.md").read_text()
    assert {name for name, _ in metrics.document()} == {PREFIX + name for name in OUTCOME | FIGURES}
    for name, text in metrics.document():
        assert f"| `{name}` | {text} |" in page
