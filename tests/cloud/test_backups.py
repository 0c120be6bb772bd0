"""Timers that run by themselves, and what they have stored brings the chain back when every volume is gone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.cluster import ROOT, wait_until
from tests.support.machines import NODES, TOLD, Machines
from tests.support.workload import Account, Acknowledged, Writer, lost

pytestmark = pytest.mark.cloud
VERBS = {"backup": "create"}  # of the units that are not named for theirs
SCHEMES = {"gcp": "gs", "aws": "s3"}
DROP_IN = "/run/systemd/system/goud-{0}.timer.d"


def soon(machines: Machines, unit: str) -> None:
    """Let the timer of a unit elapse within a minute on every node: the clock is moved, the unit stays what it is."""
    script = (
        "mkdir -p {folder} && "
        "printf '[Timer]\\nOnCalendar=\\nOnCalendar=*-*-* *:*:20\\nRandomizedDelaySec=0\\n' >{folder}/soon.conf && "
        "systemctl daemon-reload && systemctl restart goud-{unit}.timer"
    )
    machines.run("chain_nodes", script.format(folder=DROP_IN.format(unit), unit=unit))


def as_always(machines: Machines, unit: str) -> None:
    folder = DROP_IN.format(unit)
    machines.run("chain_nodes", f"rm -r {folder} && systemctl daemon-reload && systemctl restart goud-{unit}.timer")


def journal(machines: Machines, node: str, unit: str) -> str:
    return machines.run(node, f"journalctl --unit goud-{unit}.service --output cat --no-pager")


def worked(machines: Machines, unit: str) -> set[str]:
    """The nodes on which systemd has run the unit to its good end as the one that was chosen."""
    metrics = f"cat /var/lib/goud/*/backup/metrics/goud_backup_{VERBS.get(unit, unit)}.prom"
    done = {"chosen", "success"}
    chosen = {node for node in NODES if done <= metrics_of(machines.run(node, metrics, check=False))}
    return {node for node in chosen if "Finished" in journal(machines, node, unit)}


def metrics_of(text: str) -> set[str]:
    """Names, without the prefix, of the metrics that are 1."""
    rows = [line.split() for line in text.splitlines() if line.startswith("goud_backup_")]
    return {row[0].split("{")[0].removeprefix("goud_backup_") for row in rows if float(row[-1]) == 1}


def backups(machines: Machines) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        json.loads(line) for line in machines.run("node1", "goud-backup list").splitlines() if line.startswith("{")
    ]
    return found


def test_the_nightly_timer_backs_one_follower_up_by_itself(machines: Machines) -> None:
    Account(machines.front).submit("first", "so that there is something", "first")
    assert backups(machines) == []
    soon(machines, "backup")
    try:
        wait_until("a backup in the bucket", lambda: backups(machines), within=300, every=5)
        source = wait_until("the journal of a run", lambda: worked(machines, "backup"), within=120, every=5)
    finally:
        as_always(machines, "backup")
    made = backups(machines)
    print(f"{machines.provider}: {journal(machines, next(iter(source)), 'backup')}")
    assert {one["node"] for one in made} <= source
    assert made[0]["height"] >= 1


def test_the_drills_timer_restores_elsewhere_by_itself(machines: Machines) -> None:
    soon(machines, "drill")
    try:
        where = wait_until("a drill that ended well", lambda: worked(machines, "drill"), within=600, every=5)
    finally:
        as_always(machines, "drill")
    assert backups(machines)[-1]["node"] not in where
    for node in NODES:
        assert not machines.run(node, "ls /var/lib/goud/*/backup/scratch"), "scratch space is left"


def test_a_job_that_fails_is_heard_of(machines: Machines) -> None:
    config = "/var/lib/goud/node1/backup/config/command"

    def told() -> bool:
        return config in machines.run("node1", f"journalctl --identifier {TOLD} --output cat --no-pager")

    assert not told()
    machines.run("node1", f"mv {config} {config}.away")
    try:
        machines.run("node1", "systemctl start goud-ship.service", check=False)
        wait_until("people to be told, with the cause", told, within=60, every=2)
    finally:
        machines.run("node1", f"mv {config}.away {config}; systemctl reset-failed goud-ship.service")


def lose_all_volumes(machines: Machines) -> None:
    """At once on all nodes: container and volume are removed, a shipping under way with them, and all files."""
    script = (
        "set -u; name={{ inventory_hostname }}; docker rm -f $name; for attempt in 1 2 3 4 5; do "
        "docker ps -aq --filter volume=${name}_data | xargs -r docker rm -f; docker volume rm ${name}_data && break; "
        "done; docker volume inspect ${name}_data && exit 1; rm -rf /srv/goud/$name/* && ls -A /srv/goud/$name"
    )
    assert "rocksdb" not in machines.run("chain_nodes", script)


def test_every_block_that_was_shipped_comes_back_when_all_volumes_are_lost(machines: Machines) -> None:
    with machines.writing() as writers:
        wait_until("blocks to be shipped", lambda: worked(machines, "ship"), within=180, every=5)
        time.sleep(90)  # longer than the longest way of a block into the bucket, in the midst of constant writes
        gone = time.monotonic()
        lose_all_volumes(machines)
    recap = machines.playbook("restore", "-e", "backup=latest")
    assert recap.returncode == 0, recap.output
    assert "Nothing was done" in recap.output
    recap = machines.playbook("restore", "-e", "backup=latest", "-e", "restore_confirm=true")
    assert recap.returncode == 0, recap.output
    assert machines.playbook("verify").returncode == 0
    missing = [write for writer in writers for write in lost_of(machines, writer)]
    written = sum(len(writer.acknowledged) for writer in writers)
    age = max((gone - write.finished for write in missing), default=0.0)
    print(f"{machines.provider}: {written} acknowledged, {len(missing)} lost, recovery point {age:.1f} s")
    assert written > 100, "no load, no proof"
    assert age <= 60, "blocks older than a minute were not in the bucket"
    assert Account(machines.front).submit("after", "the chain goes on", "after").is_success


def test_an_archive_in_the_bucket_is_a_backup_by_its_address(machines: Machines, tmp_path: Path) -> None:
    assert Account(machines.front).submit("in time", "for the archive", "in-time").is_success
    place = f"{SCHEMES[machines.provider]}://{machines.bucket}/archives"
    recap = machines.playbook(
        "backup", "-e", "backup_archive=true", "-e", f"backup_dest={tmp_path}", "-e", f"backup_upload={place}"
    )
    assert recap.returncode == 0, recap.output
    (archive,) = tmp_path.glob("*.tar.gz")
    saved = tip_of(machines)
    assert Account(machines.front).submit("too late", "for the archive", "too-late").is_success
    wait_until("every node behind the edge to have the block", lambda: tip_of(machines) != saved, within=30)
    recap = machines.playbook("restore", "-e", f"backup={place}/{archive.name}", "-e", "restore_confirm=true")
    for fetched in (ROOT / "backups").glob(f"{archive.name.removesuffix('.tar.gz')}.*"):
        fetched.unlink()
    assert recap.returncode == 0, recap.output
    assert tip_of(machines) == saved


def tip_of(machines: Machines) -> tuple[int, str]:
    """Height and hash of the last block, as the edge serves it."""
    height = httpx.get(f"{machines.front}/health", trust_env=False).raise_for_status().json()["chain_length"] - 1
    return height, httpx.get(f"{machines.front}/api/blocks/{height}", trust_env=False).raise_for_status().json()["hash"]


def lost_of(machines: Machines, writer: Writer) -> list[Acknowledged]:
    """A writer whose own account is lost has lost all it wrote since."""
    try:
        reader = Account(machines.front, writer.account.api_key)
    except httpx.HTTPStatusError:
        return writer.acknowledged
    return lost(writer.acknowledged, reader)
