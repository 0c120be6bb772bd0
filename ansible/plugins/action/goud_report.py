"""Hand a result table to the callback; a table whose verdict is `failed` fails the task, so red is red."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))
from goud_tables import ReportError, parse_table


class ActionModule(ActionBase):
    """`goud_report: {title, columns, rows, verdict, note, save}`; runs on the controller, also in check mode."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the checked table under the key the callback looks for."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        save = bool(arguments.pop("save", True))
        try:
            table = parse_table(arguments)
        except ReportError as error:
            return {"failed": True, "changed": False, "msg": str(error)}
        report = {
            "title": table.title,
            "columns": list(table.columns),
            "rows": [list(row) for row in table.rows],
            "verdict": table.verdict,
            "note": table.note,
        }
        result: dict[str, Any] = {"changed": False, "goud_report": report, "goud_report_save": save}
        if table.verdict == "failed":
            result |= {"failed": True, "msg": f"{table.title}: {table.note or 'see the rows marked failed'}"}
        return result
