"""What the last run of each verb did, as a file for the textfile collector of Prometheus' node exporter."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import write_to_textfile
from prometheus_client.parser import text_string_to_metric_families

from goud_node.errors import ConfigurationError

_log = logging.getLogger(__name__)

PREFIX: Final = "goud_backup_"
OUTCOME: Final = {
    "last_run_timestamp_seconds": "When the verb ended last on this host, in whatever way.",
    "last_success_timestamp_seconds": "When it last ended well here after doing its work; kept when a later run fails.",
    "duration_seconds": "How long the last run took; absent when this host was not chosen.",
    "exit_code": "Exit code of the last run; absent when this host was not chosen.",
    "success": "1 when the last run ended well, 0 when it failed; absent when this host was not chosen.",
    "chosen": "1 when this host was the one to work, 0 when another was (create, ship, drill).",
}
"""Of every run. A host that was not chosen tells that it ran and nothing that could be taken for a backup."""
FIGURES: Final = {
    "bytes": "Bytes of the backup (create), read (verify) or fetched from the repository (drill).",
    "new_bytes": "Bytes added to the repository (create, ship).",
    "height": "Height of the backup (create), or of the chain that was restored and served (drill).",
    "shipped_height": "Height up to which blocks are shipped (ship).",
    "recovery_point_timestamp_seconds": "Time of the newest block that can be restored (create, ship, drill).",
    "problems": "Things found damaged or missing (verify).",
    "removed": "Backups, segments and objects removed (prune).",
    "removed_bytes": "Bytes of the removed objects (prune).",
    "recovery_seconds": "Seconds from an empty directory to a node that answers (drill).",
}
"""Of the last run that knew them: a failure does not take away what a success before it has reached."""


def document() -> Iterator[tuple[str, str]]:
    """Every name and its meaning; each has the label `verb`."""
    yield from ((PREFIX + name, text) for name, text in (OUTCOME | FIGURES).items())


class Textfile:
    """The file of one verb in the collector's directory."""

    def __init__(self, folder: Path, verb: str) -> None:
        """Raises ConfigurationError where nothing can be written: that must show before the work, not after it."""
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigurationError(
                f"The metrics cannot be written to {folder}: it is not a directory, or not writable for user "
                f"id {os.geteuid()}. Correct --metrics-dir or GOUD_BACKUP_METRICS_DIR, or the owner."
            )
        self._path = folder / f"goud_backup_{verb}.prom"
        self._verb = verb

    def write(self, code: int, seconds: float, figures: Mapping[str, float], *, chosen: bool | None) -> None:
        """Replace the file, keeping of the former one what this run does not know. Raises OSError."""
        now = time.time()
        former = {name: value for name, value in self._former().items() if name in FIGURES or _is_success(name)}
        values: dict[str, float] = {**former, **figures, "last_run_timestamp_seconds": now}
        if chosen is not None:
            values["chosen"] = chosen
        if chosen is not False:
            values |= {"duration_seconds": seconds, "exit_code": code, "success": code == 0}
            if code == 0:
                values["last_success_timestamp_seconds"] = now
        self._replace(values)

    def _replace(self, values: Mapping[str, float]) -> None:
        registry = CollectorRegistry()
        for name, text in (OUTCOME | FIGURES).items():
            if name in values:
                Gauge(PREFIX + name, text, ["verb"], registry=registry).labels(self._verb).set(values[name])
        # The collector takes every name that ends in .prom, so this one does not; and it runs as another user.
        temporary = self._path.with_suffix(".tmp")
        write_to_textfile(str(temporary), registry)
        temporary.chmod(0o644)
        temporary.replace(self._path)

    def _former(self) -> dict[str, float]:
        try:
            families = list(text_string_to_metric_families(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, IndexError, KeyError) as error:
            _log.warning("%s cannot be read (%s): it begins anew", self._path, error)
            return {}
        samples = (sample for family in families for sample in family.samples)
        return {sample.name.removeprefix(PREFIX): float(sample.value) for sample in samples}


def _is_success(name: str) -> bool:
    return name == "last_success_timestamp_seconds"
