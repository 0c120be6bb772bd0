"""Reports: what is refused, what is shown, what is kept."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import goud_tables

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def report(**changes: Any) -> dict[str, Any]:
    return {"title": "Nodes", "columns": ["node", "ready"], "rows": [["node1", True]]} | changes


def test_rows_are_lists_or_mappings() -> None:
    table = goud_tables.parse_table(report(rows=[["node1", True], {"ready": None, "node": 2}]))
    assert table.rows == (("node1", "yes"), ("2", "-"))
    assert table.records()[1] == {"node": "2", "ready": "-"}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("text", "a report is a mapping"),
        (report(title=""), "needs a title"),
        (report(columns="node"), "columns must be a list"),
        (report(columns=[]), "columns must be a list"),
        (report(rows="none"), "rows must be a list"),
        (report(rows=[["node1"]]), "row 1 has 1 cells for 2 columns"),
        (report(rows=[["node1", True], {"node": "x"}]), "row 2 and the columns differ in: ready"),
        (report(rows=["node1"]), "row 1 must be a list or a mapping"),
        (report(verdict="fine"), "not 'fine'"),
        (report(colour="red"), "unknown report fields: colour"),
    ],
)
def test_malformed_reports_are_refused(value: Any, sentence: str) -> None:
    with pytest.raises(goud_tables.ReportError, match=sentence):
        goud_tables.parse_table(value)


def test_a_failed_verdict_or_host_makes_the_run_failed() -> None:
    assert not goud_tables.Run("verify", START).failed
    assert goud_tables.Run("verify", START, hosts={"node1": {"ok": 1, "failed": 0, "unreachable": 1}}).failed
    assert goud_tables.Run("verify", START, tables=[goud_tables.parse_table(report(verdict="failed"))]).failed


@pytest.mark.parametrize("terminal", ["xterm", "dumb"])
def test_rendered_text_holds_every_cell_and_says_when_there_is_none(
    monkeypatch: pytest.MonkeyPatch, terminal: str
) -> None:
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    tables = [
        goud_tables.parse_table(report(note="All is well.")),
        goud_tables.parse_table(report(title="Empty", rows=[])),
    ]
    text = goud_tables.render(tables, width=80, colour=False)
    assert all(part in text for part in ("Nodes", "node1", "yes", "All is well.", "Empty", "(no rows)"))
    assert "\x1b" not in text
    # A terminal that knows no colours gets none, whoever asks for them.
    assert ("\x1b[" in goud_tables.render(tables, width=80, colour=True)) == (terminal == "xterm")


WORDS = st.text(alphabet="abc/-üß{}.", min_size=30, max_size=70)
CELLS = st.lists(WORDS, max_size=4).map(" ".join)


@settings(deadline=None, max_examples=300)
@example(rows=[("a" * 36, " ".join(["b" * 10] * 6), "c" * 12)], title="T", width=80)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=3),
    title=st.sampled_from(["Backup of goud-local", "T"]),
    width=st.integers(80, 160),
)
def test_no_word_is_broken_however_long_it_is(rows: list[tuple[str, str, str]], title: str, width: int) -> None:
    table = goud_tables.parse_table(report(title=title, columns=["node", "repository", "archive"], rows=rows))
    text = goud_tables.render([table], width=width, colour=False)
    assert title in text
    for word in " ".join(cell for row in rows for cell in row).split():
        assert word in text


def test_paths_below_the_project_are_shown_from_there() -> None:
    table = goud_tables.parse_table(report(rows=[["/home/me/project/backups/a.tar.gz", "/home/me/projects"]]))
    text = goud_tables.render([table], width=80, colour=False, base=Path("/home/me/project"))
    assert "│ backups/a.tar.gz │ /home/me/projects │" in text


def test_a_table_that_does_not_fit_is_shown_row_by_row() -> None:
    paths = ["/srv/" + "deep/" * 20 + name for name in ("repository", "archive")]
    table = goud_tables.parse_table(report(columns=["repository", "archive"], rows=[paths]))
    text = goud_tables.render([table], width=80, colour=False)
    assert [line.split() for line in text.splitlines() if line][1:] == [["repository", paths[0]], ["archive", paths[1]]]


def saved(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    run = goud_tables.Run("verify", START, check_mode=True)
    run.tables = [goud_tables.parse_table(report(rows=[["a|b", "x\ny"]], verdict="warning", note="Look."))]
    run.failures = [{"host": "node1", "task": "Ask", "place": "x.yml:3", "message": "no answer"}]
    run.hosts = {"node1": {"ok": 1, "failed": 1}}
    content = goud_tables.document(run, finished=START + timedelta(seconds=1.5))
    return goud_tables.save(content, tmp_path / "reports"), content


def test_saved_report_is_whole_private_and_readable(tmp_path: Path) -> None:
    path, content = saved(tmp_path)
    assert path.name == "verify-20260102-030405-000.json"
    assert json.loads(path.read_text()) == content
    assert (content["result"], content["seconds"], content["check_mode"]) == ("failed", 1.5, True)
    assert content["reports"][0]["rows"] == [{"node": "a|b", "ready": "x\ny"}]
    for file in (path, path.with_suffix(".md")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(file.suffix for file in path.parent.iterdir()) == [".json", ".md"]


def test_page_for_people_escapes_cells(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    page = path.with_suffix(".md").read_text()
    assert "| a\\|b | x y |" in page
    assert "check mode" in page
    assert "**node1**, Ask: no answer" in page
