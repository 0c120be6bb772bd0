"""The sandbox's memory: JSON documents in one SQLite file, so that a restarted service goes on where it was."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

Document = dict[str, Any]


class Documents:
    """Documents by collection and key. Every write is committed when it returns; safe between threads.

    Hold ``lock`` around read-modify-write.
    """

    def __init__(self, path: Path) -> None:
        self.lock = threading.RLock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS documents (collection TEXT, key TEXT, body TEXT, PRIMARY KEY (collection, key))"
        )

    def get(self, collection: str, key: str) -> Document | None:
        """The document, or None. The caller owns the copy."""
        with self.lock:
            row = self._database.execute(
                "SELECT body FROM documents WHERE collection = ? AND key = ?", (collection, key)
            ).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, collection: str, key: str, body: Document) -> None:
        """Write the document, new or not."""
        with self.lock:
            self._database.execute(
                "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", (collection, key, json.dumps(body))
            )

    def delete(self, collection: str, key: str) -> None:
        """Forget the document; no error when there is none."""
        with self.lock:
            self._database.execute("DELETE FROM documents WHERE collection = ? AND key = ?", (collection, key))

    def items(self, collection: str, prefix: str = "") -> list[tuple[str, Document]]:
        """Keys and documents of a collection whose key starts with ``prefix``, in the order of their keys."""
        with self.lock:
            rows = self._database.execute(
                "SELECT key, body FROM documents WHERE collection = ? AND substr(key, 1, ?) = ? ORDER BY key",
                (collection, len(prefix), prefix),
            ).fetchall()
        return [(key, json.loads(body)) for key, body in rows]

    def close(self) -> None:
        """Close the file."""
        self._database.close()
