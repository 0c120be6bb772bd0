"""The log that a node's settings name: etcd, or the one in its own database."""

from __future__ import annotations

import logging
from concurrent.futures import Executor
from pathlib import Path

from goud_node.agreement.channels import TlsFiles
from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.etcd import EtcdKv
from goud_node.agreement.kv import Kv
from goud_node.documents import Malformed, read_bytes
from goud_node.errors import ConfigurationError
from goud_node.settings import Settings
from goud_node.store import RocksStore

_log = logging.getLogger(__name__)


def connect(settings: Settings, store: RocksStore, executor: Executor | None = None) -> Kv:
    """`executor` is where the store is written. Raises ConfigurationError when a file of TLS cannot be read."""
    if settings.etcd_endpoints:
        return EtcdKv(settings.etcd_endpoints, _tls(settings), timeout=settings.etcd_timeout_seconds)
    return EmbeddedKv(store, executor=executor)


def _tls(settings: Settings) -> TlsFiles | None:
    files = (settings.etcd_ca_file, settings.etcd_cert_file, settings.etcd_key_file)
    if settings.etcd_endpoints and not any(files):
        _log.warning("etcd is used without TLS: set GOUD_ETCD_CA_FILE, GOUD_ETCD_CERT_FILE and GOUD_ETCD_KEY_FILE")
    if not all(files):
        return None
    authority, certificate, key = (_read(path) for path in files if path is not None)
    return TlsFiles(authority, certificate, key)


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}.") from error
    except Malformed as error:
        raise ConfigurationError(f"Cannot read {path}: {error}.") from error
