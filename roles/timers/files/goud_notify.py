#!/usr/bin/python3
"""Tell people that a unit failed: what, where, its last lines. Settings are in the JSON file beside this program."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

Report = dict[str, str]


def journal(unit: str) -> str:
    """The unit's last lines."""
    command = ["journalctl", "--unit", unit, "--lines", "30", "--no-pager", "--output", "cat"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def by_command(command: str, report: Report) -> None:
    """Run a shell command with the journal on its standard input."""
    environment = {**os.environ, **{f"GOUD_{name.upper()}": value for name, value in report.items()}}
    subprocess.run(
        ["/bin/sh", "-c", command], input=report["journal"], text=True, env=environment, check=True, timeout=60
    )


def by_webhook(url: str, report: Report) -> None:
    """Post JSON; `text` is what chat programs show."""
    text = f"{report['unit']} failed on {report['host']} ({report['cluster']})"
    body = json.dumps({"text": text, **report}).encode()
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"{url} is not a web address")
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310  # checked above
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  # the same
        answer.read()


def by_mail(address: str, report: Report) -> None:
    """Hand a mail to the host's sendmail."""
    head = f"To: {address}\nSubject: [{report['cluster']}] {report['unit']} failed on {report['host']}\n\n"
    subprocess.run(["/usr/sbin/sendmail", "-t"], input=head + report["journal"], text=True, check=True, timeout=60)


WAYS = {"command": by_command, "webhook": by_webhook, "mail": by_mail}


def main(unit: str) -> None:
    """Tell by every way that is set; exit status 1 when one of them failed."""
    settings = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    report = {"unit": unit, "host": socket.gethostname(), "cluster": settings["cluster"], "journal": journal(unit)}
    print(f"{unit} failed on {report['host']}", flush=True)
    failures = []
    for name, tell in WAYS.items():
        if not settings[name]:
            continue
        try:
            tell(settings[name], report)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            failures.append(f"{name}: {error}")
    if failures:
        sys.exit("goud-notify: nobody was told by " + "; ".join(failures))


if __name__ == "__main__":
    main(sys.argv[1])
