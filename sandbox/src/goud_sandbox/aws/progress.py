"""What takes time: instances, volumes, snapshots and modifications move on when the machine room has done its part.

Everything is found in the models themselves, so a service that restarts goes on with whatever was under way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from moto.ec2.models import EC2Backend, ec2_backends

from goud_sandbox.aws.context import ACCOUNT, current
from goud_sandbox.aws.instances import UNDER_WAY, Guest
from goud_sandbox.aws.volumes import EbsSnapshot, EbsVolume

log = logging.getLogger(__name__)

Resource = Guest | EbsVolume | EbsSnapshot
Settle = Callable[..., str | None]


def backends() -> list[EC2Backend]:
    """EC2 of every region that was ever asked."""
    account = ec2_backends[ACCOUNT]
    return [account[region] for region in list(account)]


def guests(backend: EC2Backend) -> Iterator[Guest]:
    """Its instances, terminated ones too."""
    for reservation in list(backend.reservations.values()):
        yield from (instance for instance in reservation.instances if isinstance(instance, Guest))


def is_pending(resource: Resource) -> bool:
    """Whether it has yet to become what the API promised."""
    if isinstance(resource, Guest):
        return resource.state in UNDER_WAY
    return resource.status == "pending" if isinstance(resource, EbsSnapshot) else resource.under_way


class Progress:
    """Moves things on, one thread each. ``lock`` guards moto's models and saves them when it is left."""

    def __init__(self, settle: Settle, lock: Callable[[], AbstractContextManager[None]]) -> None:
        self._settle = settle
        self._lock = lock
        self._busy: set[str] = set()

    def sweep(self, *, patience: float = 0) -> None:
        """Take up whatever waits and is not under way yet, and give it ``patience`` times an operation's time."""
        self._take_up()
        deadline = time.monotonic() + patience * current.settings.operation_seconds
        while self._busy and time.monotonic() < deadline:
            time.sleep(0.05)

    def _take_up(self) -> None:
        with self._lock():
            for backend in backends():
                resources: list[Resource] = [*guests(backend)]
                resources += [volume for volume in backend.volumes.values() if isinstance(volume, EbsVolume)]
                resources += [snapshot for snapshot in backend.snapshots.values() if isinstance(snapshot, EbsSnapshot)]
                for resource in resources:
                    if is_pending(resource) and resource.id not in self._busy:
                        self._busy.add(resource.id)
                        threading.Thread(target=self._run, args=(resource.id,), name=resource.id, daemon=True).start()

    def _run(self, identity: str) -> None:
        try:
            while self._step(identity):
                pass
        except Exception:
            log.exception("%s does not move on", identity)
        finally:
            with self._lock():
                self._busy.discard(identity)

    def _step(self, identity: str) -> bool:
        """One step; whether another follows. What a step waits for is read before, so that news is not skipped."""
        time.sleep(current.settings.operation_seconds)
        with self._lock():
            before = find(identity)
            promise = _promise(before) if before else None
        if before is None or promise is None:
            return False
        error = self._settle(*_needs(before))
        if error:
            log.error("%s: %s", identity, error)
        with self._lock():
            resource = find(identity)
            if resource is not None and _promise(resource) == promise:
                _move(resource, error)
            return resource is not None and is_pending(resource)


def find(identity: str) -> Resource | None:
    """The thing as it is now: a lie that was taken back replaces the models."""
    for backend in backends():
        by_identity = {guest.id: guest for guest in guests(backend)}
        resource = by_identity.get(identity) or backend.volumes.get(identity) or backend.snapshots.get(identity)
        if isinstance(resource, Guest | EbsVolume | EbsSnapshot):
            return resource
    return None


def _promise(resource: Resource) -> tuple[object, ...] | None:
    """What the thing is on its way to; None when it has arrived."""
    if not is_pending(resource):
        return None
    if isinstance(resource, EbsVolume):
        change = resource.modification
        return (resource.phase, resource.attachment is None, change and (change.stage, change.target_size))
    return (resource.state if isinstance(resource, Guest) else resource.status,)


def _needs(resource: Resource) -> list[str]:
    """The room's names for what must be true."""
    if isinstance(resource, Guest):
        return [f"machine:{resource.id}", f"subnet:{resource.vpc_id}"]
    if isinstance(resource, EbsSnapshot):
        return [f"snapshot:{resource.id}"]
    return [f"disk:{resource.id}"] + ([f"machine:{resource.attachment.instance.id}"] if resource.attachment else [])


def _move(resource: Resource, error: str | None) -> None:
    if isinstance(resource, Guest):
        _power(resource, error)
    elif isinstance(resource, EbsSnapshot):
        resource.status = "error" if error else "completed"
    elif resource.phase == "creating":
        resource.phase = "error" if error else "available"
    else:
        if resource.attachment and resource.attachment.status == "attaching":
            resource.attachment.status = "attached"
        _grow(resource, error)


def _grow(volume: EbsVolume, error: str | None) -> None:
    change = volume.modification
    if change is None:
        return
    if change.stage == "modifying" and error:
        change.stage, change.status_message, volume.device_gib = "failed", error, volume.size
    elif change.stage == "modifying":
        change.stage, volume.size = "optimizing", change.target_size or volume.size
    elif change.stage == "optimizing":
        change.stage, change.end_time = "completed", current.now()


def _power(guest: Guest, error: str | None) -> None:
    """The end of a state that is on its way; somebody may have sent it elsewhere meanwhile."""
    if error and guest.state == "pending":
        guest.fail(error)
    elif guest.state in UNDER_WAY:
        guest.turn(UNDER_WAY[guest.state])
