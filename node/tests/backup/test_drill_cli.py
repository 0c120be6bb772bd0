"""`goud-backup drill` as a timer calls it: who drills, exit codes, reports, metrics."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import pytest

from goud_backup.drill import Report, child, page, reported
from goud_backup.drill.report import history
from goud_backup.errors import Damaged
from goud_backup.repository import layout
from goud_backup.repository.repository import open_repository
from goud_backup.targets import open_target
from goud_node.errors import StoreFull
from goud_node.store import durable

from .command import Command
from .support import grow
from .test_choice import node
from .test_metrics import block_time, values


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directories for all of a drill's output, given by the environment; the reports'."""
    for name in ("scratch", "reports", "metrics"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("GOUD_BACKUP_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("GOUD_BACKUP_REPORT_DIR", str(tmp_path / "reports"))
    monkeypatch.setenv("GOUD_BACKUP_METRICS_DIR", str(tmp_path / "metrics"))
    return tmp_path / "reports"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_drill_and_one_that_fails(goud_backup: Command, tmp_path: Path, data: Path, folders: Path) -> None:
    goud_backup("init")
    goud_backup("create", "--node", "node2")
    grow(data, 5)
    goud_backup("ship", "--data-dir", str(data))
    done = goud_backup("drill", "--node", "node3", "--json")
    assert (done["format"], done["verdict"], done["problems"]) == ("goud-drill/1", "passed", [])
    assert (done["height"], done["drilled_on"], done["backup"]["node"]) == (65, "node3", "node2")
    assert done["recovery_point"]["timestamp_ms"] == block_time(65) * 1000
    assert json.loads((folders / "latest.json").read_text()) == done
    assert len(names(folders)) == 3
    assert goud_backup("status", "--json")["verified"].startswith("ok (deep")
    metrics = values(tmp_path / "metrics", "drill")
    assert (metrics["height"], metrics["success"], metrics["chosen"]) == (65, 1, 1)
    assert metrics["recovery_point_timestamp_seconds"] == block_time(65)
    assert metrics["recovery_seconds"] == done["recovery_time"]["total"]

    repository = open_repository(open_target(f"file://{tmp_path}/repository"))
    name = next(iter(repository.find("latest").objects))
    repository.target.delete(layout.object_key(name))
    goud_backup("drill", code=10)
    assert name in goud_backup.error
    latest = json.loads((folders / "latest.json").read_text())
    assert latest["verdict"] == "failed"
    assert name in latest["problems"][0]
    assert latest["recovery_point"]["timestamp_ms"] == block_time(65) * 1000
    html = (folders / "latest.html").read_text()
    assert "Restore drill: failed" in html
    assert html.count("<circle") == 4, "two drills in each of two plots"
    failed = values(tmp_path / "metrics", "drill")
    assert (failed["success"], failed["exit_code"]) == (0, 10)
    assert failed["last_success_timestamp_seconds"] == metrics["last_success_timestamp_seconds"]
    assert failed["recovery_seconds"] == metrics["recovery_seconds"]
    assert names(tmp_path / "scratch") == []


def test_who_drills(goud_backup: Command, tmp_path: Path, folders: Path) -> None:
    goud_backup("init")
    goud_backup("create", "--node", "node2")
    told = goud_backup("drill", "--node", "node2", "--elsewhere", "--json")
    assert (told["event"], told["why"]) == ("not chosen", "the backup was made from node2")
    with node("node1", role="proposer") as one, node("node2") as two, node("node3") as three:
        candidates = ["--candidate", one, "--candidate", two, "--candidate", three]
        told = goud_backup("drill", *candidates, "--node", "node2", "--json")
        assert (told["event"], told["chosen"]) == ("not chosen", "node3"), "never where the backup was made"
        assert goud_backup("drill", *candidates, "--node", "node1")["chosen"] == "node3"
        assert names(folders) == []
        assert values(tmp_path / "metrics", "drill").keys() == {"last_run_timestamp_seconds", "chosen"}
        goud_backup("drill", "--candidate", two, "--node", "node2", code=23)
        assert "node2 is the source of the backup" in goud_backup.error
        assert goud_backup("drill", *candidates, "--node", "node3")["verdict"] == "passed"


def test_a_drill_that_cannot_run_is_red(
    goud_backup: Command, tmp_path: Path, data: Path, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goud_backup("drill", code=4)
    assert "repository-missing" in (folders / "latest.html").read_text()
    goud_backup("init")
    goud_backup("drill", code=16)
    goud_backup("drill", "--elsewhere", code=3)
    goud_backup("create")
    goud_backup("drill", "--scratch", str(data / "rocksdb"), code=3)
    assert "never works near live data" in goud_backup.error
    goud_backup("drill", "--report-dir", str(tmp_path / "nowhere"), code=3)
    monkeypatch.setattr(child, "COMMAND", ("false",))
    goud_backup("drill", code=24)
    assert "instead of serving" in goud_backup.error
    assert json.loads((folders / "latest.json").read_text())["problems"][0].startswith("node-failed: ")


def finished(folder: Path, problem: str | None = None) -> None:
    report = Report("file:///r", "<node3>")
    report.recovery_time = {"total": 2.0}
    with suppress(Damaged), reported(report, folder):
        if problem is not None:
            raise Damaged(problem)
    assert report.verdict == ("passed" if problem is None else "failed")


def test_the_page(tmp_path: Path) -> None:
    for _ in range(33):
        finished(tmp_path)
    finished(tmp_path, "<script>alert(1)</script>")
    (tmp_path / "drill-00000000T000000000000Z.json").write_text("{")
    (tmp_path / "drill-99999999T000000000000Z.json").write_text("{")
    html = (tmp_path / "latest.html").read_text()
    assert html.count("<circle") == 2 * 30
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "http" not in html, "nothing is loaded from elsewhere"
    for svg in html.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + svg.partition("</svg>")[0] + "</svg>")  # noqa: S314  # the page is our own
    assert len(history(tmp_path)) == 29, "one of the last thirty cannot be read"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.4, "0.40 s"), (61, "61 s"), (300, "5 min 0 s"), (7260, "2 h 1 min"), (90_000, "1 d 1 h")],
)
def test_durations(value: float | None, text: str) -> None:
    assert page.seconds(value) == text


def test_a_report_that_cannot_be_written_hides_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise StoreFull("the disk is full")

    monkeypatch.setattr(durable, "replace", full)
    finished(tmp_path, "an object")
    assert "could not be written" in caplog.text
    with pytest.raises(StoreFull):
        finished(tmp_path)
