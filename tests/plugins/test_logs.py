"""The lines that ./run logs shows: each with one time."""

from __future__ import annotations

import re

import pytest
import yaml

import documentation

ENGINE = "2026-01-02T03:04:05.678901234Z "


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("2026-01-02 03:04:05,678 INFO goud_node: ready", "2026-01-02 03:04:05,678 INFO goud_node: ready"),
        ('{"time": "2026-01-02T03:04:05", "message": "x"}', '{"time": "2026-01-02T03:04:05", "message": "x"}'),
        ('{"level":"warn","ts":"2026-01-02T03:04:05.678Z"}', '{"level":"warn","ts":"2026-01-02T03:04:05.678Z"}'),
        ("[NOTICE]   (1) : Loading success.", f"{ENGINE}[NOTICE]   (1) : Loading success."),
        ("", ENGINE),
        ("Traceback (most recent call last):", f"{ENGINE}Traceback (most recent call last):"),
        ("x" * 50 + " expires 2026-01-02 03:04", ENGINE + "x" * 50 + " expires 2026-01-02 03:04"),
    ],
)
def test_a_line_has_one_time(line: str, text: str) -> None:
    plays = yaml.safe_load((documentation.ROOT / "ansible/playbooks/logs.yml").read_text())
    (pattern,) = [
        play["vars"]["logs_second_time"] for play in plays if "vars" in play and "logs_wanted" in play["vars"]
    ]
    assert re.sub(pattern, "", ENGINE + line) == text
