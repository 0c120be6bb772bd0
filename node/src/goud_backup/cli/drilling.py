"""The command that proves that a restore would work."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import typer

from goud_backup import restore as restoring
from goud_backup.cli import choosing, options, output
from goud_backup.cli.measuring import Run, measured, recovery_point
from goud_backup.cli.options import AsJson, Candidates, IdentityFile, MetricsDir, RecordKey, Url, Workers
from goud_backup.drill import Report, perform, reported, source_of
from goud_backup.settings import WORKERS
from goud_node.errors import ConfigurationError


def drill(
    url: Url,
    scratch: Annotated[
        Path,
        typer.Option(
            envvar="GOUD_BACKUP_SCRATCH", help="Directory with room for the restored data; never a data directory."
        ),
    ],
    backup: Annotated[str, typer.Option(help="A backup's id, the beginning of one, or `latest`.")] = "latest",
    report_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="GOUD_BACKUP_REPORT_DIR", help="Directory for drill-TIME.json, latest.json and latest.html."
        ),
    ] = None,
    node: Annotated[str | None, typer.Option("--node", envvar="GOUD_BACKUP_NODE", help="This host's node.")] = None,
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="Do nothing on the host whose node the backup was made from.")
    ] = False,
    candidate: Candidates = None,
    identity: IdentityFile = None,
    key: RecordKey = None,
    workers: Workers = WORKERS,
    metrics_dir: MetricsDir = None,
    as_json: AsJson = False,
) -> None:
    """Restore to scratch what `restore` would bring back, prove it, serve it by a throw-away node, and ask that node.

    `latest` includes every block shipped since. What the node answers must be what the repository says. Nothing live
    is involved, and the scratch is empty again however it ends. With candidates it runs on the first healthy node that
    is not the backup's source. A success is noted in the repository like that of `verify --deep`.
    """
    report = Report(url, node or platform.node())
    with measured("drill", metrics_dir) as run:
        _check(report_dir, node, elsewhere=elsewhere)
        with reported(report, report_dir), options.repository(url) as repository:
            source = source_of(repository, backup) if elsewhere or candidate else None
            run.chosen = report.due = _is_due(candidate, node, source, elsewhere=elsewhere, as_json=as_json)
            if not run.chosen:
                return
            with output.progress() as progress:
                signer = options.signing_key(key)
                tools = restoring.Tools(options.opener(identity), workers, progress, key=signer)
                perform(repository, backup, scratch, tools, report)
        _measure(run, report)
    output.emit("drill", report.document(), as_json=as_json)


def _check(report_dir: Path | None, node: str | None, *, elsewhere: bool) -> None:
    if elsewhere and node is None:
        raise ConfigurationError("--elsewhere compares this host's node with the backup's source: give --node.")
    if report_dir is not None and not report_dir.is_dir():
        raise ConfigurationError(f"The report directory {report_dir} does not exist. Make it, or correct --report-dir.")


def _is_due(
    candidate: list[str] | None, node: str | None, source: str | None, *, elsewhere: bool, as_json: bool
) -> bool:
    if elsewhere and source == node:
        choosing.tell(node, f"the backup was made from {source}", as_json=as_json, chosen=None, candidates=[])
        return False
    return choosing.is_chosen(candidate, node, but=source, as_json=as_json)


def _measure(run: Run, report: Report) -> None:
    run.set(bytes=report.bytes, height=report.height, recovery_seconds=report.recovery_time["total"])
    run.set(recovery_point_timestamp_seconds=recovery_point(report.recovery_point.get("timestamp_ms")))
