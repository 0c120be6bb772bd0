"""A package index on loopback with tiny wheels of its own, and the oldest pip that scripts/bootstrap works with."""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

from tests.support.cluster import ROOT

OLDEST_PIP = Path(__file__).with_name("oldest-pip.txt")


def wheel(
    name: str, version: str, *, requires: tuple[str, ...] = (), extras: tuple[str, ...] = (), sources: str = ""
) -> bytes:
    """A wheel with one module that tells its version, and a console script of the same name.

    `sources`: a folder that its interpreter looks into, too, as an editable installation has it.
    """
    module, folder = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Provides-Extra: {extra}" for extra in extras] + [f"Requires-Dist: {need}" for need in requires]
    files = {
        f"{module}.py": f"def main():\n    print({version!r})\n",
        f"{folder}/METADATA": "\n".join(metadata) + "\n",
        f"{folder}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{folder}/entry_points.txt": f"[console_scripts]\n{name} = {module}:main\n",
    }
    if sources:
        files[f"{module}.pth"] = f"{sources}\n"
    record = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in files.items()]
    files[f"{folder}/RECORD"] = "\n".join([*record, f"{folder}/RECORD,,", ""])
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return content.getvalue()


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


@dataclass
class PackageIndex:
    """What the index serves, and how it misbehaves."""

    wheels: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    stalled_name: str = ""
    """The downloads of this project never end."""
    stalled: Event = field(default_factory=Event)
    """Somebody waits for that download."""
    closed: Event = field(default_factory=Event)

    def add(self, name: str, version: str, *, requires: tuple[str, ...] = (), extras: tuple[str, ...] = ()) -> str:
        """Serve a new wheel; its line of a lock, without an extra."""
        content = wheel(name, version, requires=requires, extras=extras)
        self.wheels[f"{name.replace('-', '_')}-{version}-py3-none-any.whl"] = content
        return f"{name}=={version} --hash=sha256:{hashlib.sha256(content).hexdigest()}\n"

    def answer(self, path: str) -> bytes | None:
        """A project's page or a file; None: there is no such thing."""
        *_, folder, name = path.rstrip("/").split("/")
        if folder == "files":
            if self.stalled_name and name.startswith(self.stalled_name):
                self.stalled.set()
                self.closed.wait()
            return self.wheels.get(name)
        links = [file for file in self.wheels if file.split("-")[0].replace("_", "-") == name]
        return "".join(f'<a href="/files/{file}">{file}</a>\n' for file in links).encode() if links else None


@contextmanager
def package_index() -> Iterator[PackageIndex]:
    index = PackageIndex()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = index.answer(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Type", "text/html" if "/simple/" in self.path else "application/octet-stream")
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None:
            """The output of a test is for its failures."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        index.url = f"http://127.0.0.1:{server.server_port}/simple"
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield index
        finally:
            index.closed.set()
            server.shutdown()


def oldest_pip() -> Path:
    """The wheel of the oldest pip that is promised, fetched once by the machine's own means and checked by its hash."""
    folder = ROOT / ".state/oldest-pip"
    words = ["--no-deps", "--require-hashes", "--dest", str(folder), "--requirement", str(OLDEST_PIP)]
    if not any(folder.glob("*.whl")):
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *words], check=True)
    return next(iter(folder.glob("*.whl")))
