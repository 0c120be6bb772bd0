"""The one document of a run that a machine asked for: its playbook's, or one in its shape that says why none began."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import goud_tables

ROOT = Path(__file__).resolve().parents[1]
INTERRUPTED = {99, 129, 130, 143}  # Ansible's status, and the shell's of a hang-up, Ctrl-C and an order to end
WRONG_USAGE = 64
HEADLINE = re.compile(r"(\[ERROR\]|ERROR!|run|bootstrap|ansible-playbook: error): ")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\S\n]+$|\r", re.MULTILINE)
CONTEXT = 30  # lines before the headline: Ansible tells causes as warnings, and then that it failed


def separate(output: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The documents that playbooks wrote, one a line, and every other line."""
    documents, remarks = [], []
    for line in StringIO(output):  # splitlines() would end one at separators that a document's texts may hold
        try:
            content = json.loads(line)
        except ValueError:
            content = None
        if isinstance(content, dict) and {"verb", "result"} <= content.keys():
            documents.append(content)
        else:
            remarks.append(line.removesuffix("\n"))
    return documents, remarks


def cause(errors: str) -> tuple[str, str]:
    """The last error in one line, and with what was said around it."""
    lines = ESCAPES.sub("", errors).split("\n")
    numbers = [number for number, line in enumerate(lines) if line]
    number = max((number for number in numbers if HEADLINE.match(lines[number])), default=max(numbers, default=-1))
    if number < 0:
        return "it ended without a word", "it ended without a word"
    context = lines[max(0, number - CONTEXT) : number + CONTEXT // 2]
    return HEADLINE.sub("", lines[number], count=1), "\n".join(context).strip()


def advice(verb: str, status: int) -> str:
    """Where to read on."""
    page = Path("docs/runbooks") / f"{verb}.md"
    return str(page) if status != WRONG_USAGE and (ROOT / page).is_file() else "./run help"


def outcome(
    verb: str, status: int, documents: Sequence[dict[str, Any]], errors: str, started: datetime
) -> dict[str, Any]:
    """The document of a run that ended with this status.

    A verb that asks first runs its playbook twice, and the second says what was done; an interrupted deploy is followed
    by a start, which says less than its own. What a playbook takes for an interruption may be Ansible's own error: the
    status tells.
    """
    now = datetime.now(UTC)
    run = goud_tables.Run(verb.replace("-", "_"), started, interrupted=status in INTERRUPTED)
    reports = [content for content in documents if content["verb"] == documents[0]["verb"]]
    conclusive = {"failed", "interrupted"} if run.interrupted else {"failed"}
    if reports and (status == 0 or reports[-1]["result"] in conclusive):
        return reports[-1]
    if status == 0:
        return goud_tables.document(run, finished=now)
    headline, message = cause(errors)
    failure = {"host": "controller", "task": "./run", "place": "", "message": message}
    run.begun, run.advice = False, advice(run.verb, status)
    run.failures.append(failure)
    content = goud_tables.document(run, finished=now) | {"error": headline}
    if not reports:
        return content
    plan = {name: reports[-1][name] for name in ("verb", "check_mode", "hosts", "reports")}  # the plan that was shown
    return content | plan | {"failures": [failure, *reports[-1]["failures"]]}


def main() -> None:
    """Read what a run wrote, and print its one document."""
    verb, status, started, place = sys.argv[1:]
    output, errors = (Path(place, name).read_text(errors="replace") for name in ("output", "errors"))
    documents, remarks = separate(output)
    for line in remarks:
        print(line, file=sys.stderr)
    start = datetime.fromtimestamp(float(started), UTC)
    print(json.dumps(outcome(verb, int(status), documents, errors, start), ensure_ascii=False))


if __name__ == "__main__":
    main()
