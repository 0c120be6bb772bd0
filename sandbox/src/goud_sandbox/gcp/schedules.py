"""Snapshot schedules, run when the sandbox is told that their hour has come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from goud_sandbox.gcp.base import Scope, new_id
from goud_sandbox.gcp.buckets import moment
from goud_sandbox.gcp.compute import Compute


def run(compute: Compute) -> list[str]:
    """Snapshot every disk that has a schedule and drop what its retention lets go; names of the new snapshots."""
    names = []
    for disk in compute.base.all("disks"):
        for link in disk.get("resourcePolicies", []):
            policy = compute.base.need(compute.base.key(link)).get("snapshotSchedulePolicy") or {}
            scope = Scope(compute.base.settings.project, "zones", disk["zone"].rsplit("/", 1)[-1])
            properties = policy.get("snapshotProperties") or {}
            name = f"{disk['name'][:40]}-{new_id()}"
            body = {"name": name, "labels": properties.get("labels", {})}
            compute.disks.create_snapshot(scope, disk["name"], body, {})
            compute.base.change(f"projects/{scope.project}/global/snapshots/{name}", {"autoCreated": True})
            names.append(name)
            _prune(compute, disk["selfLink"], policy)
    return names


def _prune(compute: Compute, disk: str, policy: dict[str, object]) -> None:
    retention = policy.get("retentionPolicy")
    days = int(retention.get("maxRetentionDays", 14)) if isinstance(retention, dict) else 14
    oldest = datetime.now(UTC) - timedelta(days=days)
    world = Scope(compute.base.settings.project, "global")
    for snapshot in compute.base.all("snapshots"):
        stale = moment(snapshot["creationTimestamp"]) < oldest
        if snapshot.get("autoCreated") and snapshot["sourceDisk"] == disk and stale:
            compute.collections["snapshots"].delete(world, snapshot["name"])
