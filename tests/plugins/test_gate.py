"""The gate asks the node itself, whatever the operator's environment says."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import documentation

SCRIPT = "import sys, goud_gate; print(goud_gate.ask(sys.argv[1])[0])"


class Ready(BaseHTTPRequestHandler):
    """A node that is ready."""

    def do_GET(self) -> None:
        body = json.dumps({"status": "ready"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Tests are quiet."""


@pytest.fixture
def node() -> Iterator[str]:
    """The address of a node."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"])
def test_no_proxy_is_asked(node: str, variable: str) -> None:
    modules = documentation.ROOT / "ansible/plugins/modules"
    environment = {"PYTHONPATH": str(modules), variable: "http://127.0.0.1:9"}  # nobody listens there
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, f"{node}/readyz"], env=environment, check=True, capture_output=True, text=True
    )
    assert result.stdout.strip() == "200"
