"""Google's store on loopback, its objects in a folder: in this process, or in one of its own that can be killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from goud_sandbox.apifaults import ApiFaults
from goud_sandbox.documents import Documents
from goud_sandbox.gcp.app import Google
from goud_sandbox.settings import Settings

BUCKET = "backups"
_TOKEN = "operator-token"


class Authenticated:
    """The emulator's client sends no credential: this puts one on, unless it has been taken away."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.valid = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.valid:
            headers = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
            scope = {**scope, "headers": [*headers, (b"authorization", f"Bearer {_TOKEN}".encode())]}
        await self._app(scope, receive, send)


def google(folder: Path) -> Authenticated:
    """The store whose content is in `folder`; with a bucket when it is new."""
    new = not (folder / "documents.db").exists()
    documents = Documents(folder / "documents.db")
    made = Google(
        documents,
        Settings(project="demo"),
        ApiFaults(documents),
        operator_token=_TOKEN,
        objects=folder / "objects",
        settle=lambda *_: None,
    )
    if new:
        for name in (BUCKET, "a-bucket"):
            made.storage.buckets.create({"name": name})
    return Authenticated(made.app)


class Mortal:
    """A store in a process of its own, which comes back with what it had."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.deaths = 0
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = int(free.getsockname()[1])
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "backup.store", str(self._folder), str(self._port)]
        paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        self._process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths})
        while not self._answers():
            if self._process.poll() is not None:
                raise RuntimeError(f"the store ended with {self._process.returncode}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self._port), 1):
            return True
        return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.deaths += 1

    def objects(self) -> int:
        return sum(path.is_file() for path in (self._folder / "objects").rglob("*"))

    def kill_after(self, more: int, *, back_after: float | None = None) -> threading.Thread:
        """Kill it when it has got so many more objects; the thread that does starts it again if that is wished."""
        until = self.objects() + more

        def work() -> None:
            deadline = time.monotonic() + 60
            while self.objects() < until:
                if time.monotonic() > deadline:
                    return  # it never got them, and lives: `deaths` tells
                time.sleep(0.001)
            self.kill()
            if back_after is not None:
                time.sleep(back_after)
                self.start()

        thread = threading.Thread(target=work)
        thread.start()
        return thread


if __name__ == "__main__":
    uvicorn.run(google(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), log_level="error", lifespan="off")
