"""Plant faults in the sources, one at a time, and see whether the tests notice: killed, survived, or equivalent.

Usage: .venv/bin/python scripts/mutate.py [NAME…] [--list] [--jobs 2] [--report FILE]
NAME is a mutation or an area (a file of scripts/mutations/); none means all. Ends with 1 when one survived that is not
called equivalent, or when less than 90 % were killed; with 2 when a mutation does not fit the sources any more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).resolve().parents[1]
MUTATIONS: Final = ROOT / "scripts" / "mutations"
SOURCES: Final = ROOT / "node" / "src"
SHARE: Final = 0.9
"""Of the mutations that are not equivalent, this share has to be killed."""
PATIENCE: Final = 600.0
"""Seconds after which the tests of a mutation count as hanging: that is noticed, too."""
_TESTS_FAILED: Final = 1  # exit status of pytest
_SELECTED: Final = "not etcd"
"""What needs an engine for containers is left out: one that is missing or busy would fail a test, too."""


class MutationError(Exception):
    """The list of mutations is wrong; the text says which one, and what to do."""


@dataclass(frozen=True)
class Mutation:
    """One planted fault: `before` stands exactly once in `file` and becomes `after`; `tests` should notice.

    `equivalent` gives the reason why nothing could notice it; such a mutation is listed and not run.
    """

    name: str
    area: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    equivalent: str = ""

    def applied_to(self, text: str) -> str:
        """The mutated text. Raises MutationError when `before` does not stand there exactly once."""
        count = text.count(self.before)
        if count != 1:
            raise MutationError(
                f"{self.name}: its `before` stands {count} times in {self.file}, not once: the source has changed. "
                f"Correct {self.area}.toml."
            )
        return text.replace(self.before, self.after)


@dataclass(frozen=True)
class Verdict:
    """What became of a mutation: killed, survived, or equivalent; `detail` is the test that noticed, or the reason."""

    name: str
    area: str
    verdict: str
    detail: str
    seconds: float


def load(folder: Path = MUTATIONS) -> list[Mutation]:
    """Every mutation of the project. Raises MutationError for a name used twice or one that fits nowhere."""
    mutations = [
        Mutation(
            name=name,
            area=path.stem,
            file=entry["file"],
            before=entry["before"],
            after=entry["after"],
            tests=tuple(entry["tests"]),
            equivalent=entry.get("equivalent", ""),
        )
        for path in sorted(folder.glob("*.toml"))
        for name, entry in tomllib.loads(path.read_text(encoding="utf-8")).items()
    ]
    names = [mutation.name for mutation in mutations]
    duplicates = {name for name in names if names.count(name) > 1}
    if duplicates:
        raise MutationError(f"{min(duplicates)} is the name of two mutations. Rename one.")
    return mutations


def check(mutations: Iterable[Mutation]) -> None:
    """Raises MutationError for the first mutation that does not fit the sources, or whose tests do not exist."""
    for mutation in mutations:
        mutation.applied_to((SOURCES / mutation.file).read_text(encoding="utf-8"))
        for test in mutation.tests:
            if not (ROOT / test.split("::")[0]).exists():
                raise MutationError(f"{mutation.name}: its test {test} does not exist. Correct {mutation.area}.toml.")


def selected(mutations: Sequence[Mutation], names: Sequence[str]) -> list[Mutation]:
    """Those that are named, by name or by area; all when none is."""
    choices = {mutation.name for mutation in mutations} | {mutation.area for mutation in mutations}
    for name in names:
        if name not in choices:
            raise MutationError(f"There is no mutation and no area '{name}'; --list shows them.")
    return [mutation for mutation in mutations if not names or {mutation.name, mutation.area} & set(names)]


def run(mutation: Mutation) -> Verdict:
    """Plant the fault in a copy of the tree, and run its tests there."""
    start = time.monotonic()
    if mutation.equivalent:
        return Verdict(mutation.name, mutation.area, "equivalent", mutation.equivalent, 0.0)
    with tempfile.TemporaryDirectory(prefix="mutate-") as scratch:
        tree = copy_of_tree(Path(scratch) / "tree")
        path = tree / "node" / "src" / mutation.file
        text = mutation.applied_to(path.read_text(encoding="utf-8"))
        path.unlink()  # a hard link: the project's own file stays as it is
        path.write_text(text, encoding="utf-8")
        test = noticed_by(tree, mutation.tests)
    seconds = round(time.monotonic() - start, 1)
    return Verdict(mutation.name, mutation.area, "killed" if test else "survived", test, seconds)


def copy_of_tree(tree: Path) -> Path:
    """The project's files as hard links, so that a copy takes no space; on another file system, as copies."""
    for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        source, target = ROOT / name, tree / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.hardlink_to(source)
            except OSError:
                shutil.copy2(source, target)
    return tree


def git(folder: Path, *arguments: str) -> str:
    """What git prints in `folder`. Raises CalledProcessError."""
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def noticed_by(tree: Path, tests: Sequence[str], patience: float | None = PATIENCE, workers: int = 0) -> str:
    """The first test that fails in `tree`, "the tests hang" when they take over `patience` seconds; empty if all pass.

    Raises MutationError when pytest ends in any other way: no test ran, so nothing was shown.
    """
    environment = {**os.environ, "PYTHONPATH": f"{tree}/node/src", "PYTHONDONTWRITEBYTECODE": "1"}
    options = ["-q", "-x", "-m", _SELECTED, "-p", "no:cacheprovider", "--no-header", "-n", str(workers)]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    try:
        result = subprocess.run(
            command, cwd=tree, env=environment, check=False, capture_output=True, text=True, timeout=patience
        )
    except subprocess.TimeoutExpired:
        return f"the tests hang: not done after {patience:.0f} s"
    if result.returncode == 0:
        return ""
    failures = [line for line in result.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if result.returncode != _TESTS_FAILED or not failures:
        raise MutationError(f"{' '.join(tests)} could not be run:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    return failures[0].split(" ", 1)[1].split(" - ")[0]


def passes_unchanged(mutations: Sequence[Mutation], workers: int = 0) -> None:
    """Raises MutationError when a test fails without any mutation: then its failing would prove nothing.

    All tests run in one go, so this takes as long as it takes: no patience applies.
    """
    tests = sorted({test for mutation in mutations for test in mutation.tests if not mutation.equivalent})
    with tempfile.TemporaryDirectory(prefix="mutate-") as scratch:
        failure = noticed_by(copy_of_tree(Path(scratch) / "tree"), tests, None, workers) if tests else ""
    if failure:
        raise MutationError(f"{failure} fails without any mutation: mend it first.")


def show(verdicts: Sequence[Verdict], console: Console) -> float:
    """Print the table; the share of killed ones among those that are not equivalent."""
    table = Table("area", "mutation", "verdict", "noticed by, or why equivalent", "s")
    for verdict in verdicts:
        style = "red" if verdict.verdict == "survived" else ""
        table.add_row(verdict.area, verdict.name, verdict.verdict, verdict.detail, f"{verdict.seconds}", style=style)
    console.print(table)
    counts = {
        kind: sum(verdict.verdict == kind for verdict in verdicts) for kind in ("killed", "survived", "equivalent")
    }
    total = counts["killed"] + counts["survived"]
    share = counts["killed"] / total if total else 1.0
    console.print(", ".join(f"{count} {kind}" for kind, count in counts.items()) + f": {share:.0%} killed")
    return share


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Plant faults one at a time and see whether the tests notice.")
    parser.add_argument("names", nargs="*", help="mutations or areas; all when none is named")
    parser.add_argument("--list", action="store_true", help="show what there is and whether it fits; run nothing")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--report", type=Path, help="write the verdicts there, too, as JSON")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        mutations = selected(load(), options.names)
        check(mutations)
        if options.list:
            for mutation in mutations:
                console.print(f"{mutation.area}  {mutation.name}  {mutation.file}")
            return 0
        passes_unchanged(mutations, options.jobs)
        with ThreadPoolExecutor(options.jobs) as pool:
            verdicts = []
            for verdict in pool.map(run, mutations):
                verdicts.append(verdict)
                print(f"{verdict.verdict:10} {verdict.name}  ({verdict.seconds} s)", file=sys.stderr, flush=True)
    except MutationError as error:
        print(f"mutate: {error}", file=sys.stderr)
        return 2
    if options.report:
        options.report.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=1), encoding="utf-8")
    return 0 if show(verdicts, console) >= SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
