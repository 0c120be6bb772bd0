"""The provider: moto's models completed, its wishes for the room, and its application."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")

import moto.settings
from moto.ec2.models import ec2_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

from goud_sandbox.apifaults import ApiFaults
from goud_sandbox.aws import addresses, backup, identity, instances, metadata, objects, signature, volumes
from goud_sandbox.aws.context import Context, Key, current, use
from goud_sandbox.aws.desired import desired
from goud_sandbox.aws.gateway import Answer, Call, Gateway
from goud_sandbox.aws.progress import Progress, backends, guests
from goud_sandbox.aws.store import STORAGE, Store
from goud_sandbox.documents import Documents
from goud_sandbox.metadata import Question, Reply
from goud_sandbox.room.model import Desired

log = logging.getLogger(__name__)

CLOCK = "aws-clock"
STORAGE_SECONDS = 0.5
WAITS = re.compile(r"(Run|Start|Stop|Terminate)Instances|Create(Volume|Snapshot)|AttachVolume")
PATIENCE = 6  # operations' times that such a call takes at most: clients look again only after 15 s
SETTLES = re.compile(r"Authorize|Revoke|Associate|Disassociate|Detach|Delete|Release|ModifyInstance|ModifyNetwork")


class Amazon:
    """One per process, since moto's memory is the process's."""

    def __init__(
        self,
        documents: Documents,
        context: Context,
        faults: ApiFaults,
        *,
        operator: Key,
        folder: Path,
        settle: Callable[..., str | None],
    ) -> None:
        self._documents = documents
        self._settle = settle
        self._lock = threading.RLock()
        self._depth = 0
        self._storage_changed = threading.Event()
        self._server: BaseWSGIServer | None = None
        self._end = threading.Event()
        ahead = (documents.get(CLOCK, "ahead") or {}).get("seconds", 0.0)
        context.ahead = timedelta(seconds=float(ahead))
        context.lie_device = lambda _: bool(faults.take("POST", "ec2.amazonaws.com/ModifyVolume", {"lie_device"}))
        use(context)
        for part in (volumes, addresses, instances, backup, signature):
            part.install()
        objects.install(folder / "objects")
        ec2_backends.backend = instances.Instances
        vars(moto.settings)["INITIAL_NO_AUTH_ACTION_COUNT"] = 0  # every call is checked: key, signature, policies
        self._store = Store(folder)
        self._store.load()
        identity.prepare(operator)
        self.progress = Progress(settle, self._transaction)
        self._metadata = metadata.Metadata(self._transaction)
        self.application = Gateway(DomainDispatcherApplication(create_backend_app), faults, self._perform, self._after)

    # calls -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Alone with the models, which are saved in the end."""
        with self._lock:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._store.save("account")

    def _perform(self, call: Call, ask: Callable[[], Answer], lie: bool) -> Answer:
        with self._lock:
            if call.reads:
                return ask()
            if lie:
                with self._store.rollback():
                    return ask()
            answer = ask()
            if call.service == STORAGE:
                self._storage_changed.set()
            else:
                self._store.save("account")
            return answer

    def _after(self, call: Call) -> None:
        if call.service == "ec2":
            self.progress.sweep(patience=PATIENCE if WAITS.match(call.action) else 0)
            if SETTLES.match(call.action):
                self._settle()

    # the room --------------------------------------------------------------------------------------------------

    def desired(self) -> Desired:
        """What the machine room should make true."""
        with self._lock:
            return desired(self._documents)

    def metadata(self, question: Question) -> Reply | None:
        """What a machine is told at 169.254.169.254; None when it is not one of ours."""
        with self._lock:
            return self._metadata.answer(question)

    def on_power_off(self, machine: str) -> None:
        """A machine went down by itself: its instance is stopped, or terminated when it was made to be."""
        with self._transaction():
            for guest in [guest for backend in backends() for guest in guests(backend)]:
                if guest.id != machine or guest.state not in {"pending", "running"}:
                    continue
                if guest.instance_initiated_shutdown_behavior == "terminate":
                    guest.terminate()
                else:
                    guest.power_off()

    # time ------------------------------------------------------------------------------------------------------

    def run_schedules(self) -> list[str]:
        """The hour of the backup plans comes; the new snapshots' ids."""
        with self._transaction():
            snapshots = backup.run()
        self.progress.sweep()
        self._settle()
        return snapshots

    def advance(self, seconds: float) -> str:
        """Move the account's clock ahead; the time it shows then."""
        current.ahead += timedelta(seconds=seconds)
        self._documents.put(CLOCK, "ahead", {"seconds": current.ahead.total_seconds()})
        return current.now().isoformat()

    # serving ---------------------------------------------------------------------------------------------------

    def start(self, port: int) -> None:
        """Listen on loopback, in threads of its own, and go on with whatever was under way."""
        self._server = make_server("127.0.0.1", port, self.application, threaded=True, request_handler=_Handler)
        threading.Thread(target=self._server.serve_forever, name="aws", daemon=True).start()
        threading.Thread(target=self._keep_storage, name="aws-storage", daemon=True).start()
        self.progress.sweep()

    @property
    def port(self) -> int:
        """The port it listens on; 0 while it does not."""
        return self._server.port if self._server else 0

    def stop(self) -> None:
        """Stop listening; everything is on disk afterwards."""
        if self._server:
            self._server.shutdown()
        self._end.set()
        with self._lock:
            self._store.save("account")
            self._store.save("storage")

    def _keep_storage(self) -> None:
        """The index of the storage is large and changes often: it is written twice a second at most."""
        while not self._end.wait(STORAGE_SECONDS):
            if self._storage_changed.is_set():
                self._storage_changed.clear()
                with self._lock:
                    self._store.save("storage")


class _Handler(MotoRequestHandler):
    """Says nothing about each request."""

    def log(self, type: str, message: str, *arguments: Any) -> None:  # noqa: A002 -- werkzeug's name
        if type != "info":
            log.warning(message, *arguments)
