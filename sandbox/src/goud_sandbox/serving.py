"""HTTP servers that share one process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import uvicorn


class _Server(uvicorn.Server):
    """Leaves signals to the service: several servers share its process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing to capture."""
        yield


def server(app: Any, host: str, port: int, **options: Any) -> uvicorn.Server:
    """A server that says nothing of each request and ends soon when it is told to."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=2,
        **options,
    )
    return _Server(config)
