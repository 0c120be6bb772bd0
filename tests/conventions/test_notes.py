"""What a table says of a rehearsal: that nothing happened, whatever was confirmed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jinja2
import pytest
import yaml

import documentation

PLAYBOOKS = documentation.ROOT / "ansible/playbooks"
CHANGING = [
    "backup", "clean", "destroy", "drill", "expand", "prune", "restore", "snapshot", "snapshots_prune",
    "snapshots_restore", "stop",
]  # fmt: skip
HAPPENED = [
    "Carrying it out",
    "were removed",
    "Removed",
    "is complete",
    "Stopped",
    "Attach",
    "Each was",
]
CONFIRMED: dict[str, Any] = {
    "ansible_check_mode": True, "destroy_decided": True, "cloud_disk_prunable": [1], "cloud_disk_snapshots": [1, 2],
    "_rows": [1], **{f"{verb}_confirm": True for verb in CHANGING},
}  # fmt: skip


def reports(content: Any) -> Iterator[dict[str, Any]]:
    """Every task that shows a table, but those of which a condition says that it is no rehearsal."""
    if isinstance(content, list):
        for part in content:
            yield from reports(part)
    elif isinstance(content, dict) and not any(word in str(content.get("when")) for word in ("check_mode", "_go")):
        if "goud_report" in content:
            yield content
        for part in content.values():
            yield from reports(part)


@pytest.mark.parametrize("verb", CHANGING)
def test_a_table_of_a_rehearsal_says_that_nothing_happened(verb: str) -> None:
    engine = jinja2.Environment(autoescape=True, undefined=jinja2.ChainableUndefined)
    engine.filters["bool"] = bool
    texts = []
    for task in reports(yaml.safe_load((PLAYBOOKS / f"{verb}.yml").read_text(encoding="utf-8"))):
        decision = engine.from_string(str(task.get("vars", {}).get("_removed", ""))).render(CONFIRMED)
        variables = CONFIRMED | {"_removed": decision == "True"}
        texts += [engine.from_string(task["goud_report"][name]).render(variables) for name in ("title", "note")]
    assert any("Check mode: " in text for text in texts), texts
    assert not [text for text in texts for word in HAPPENED if word in text]
