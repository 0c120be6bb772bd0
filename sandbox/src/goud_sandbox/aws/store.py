"""moto's memory on disk: all models of the account in two files, so that a restarted service goes on where it was."""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import moto
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from moto.backends import get_backend
from moto.core.base_backend import BackendDict
from moto.s3.models import S3Backend, s3_backends

from goud_sandbox.errors import SandboxError

log = logging.getLogger(__name__)

State = dict[str, dict[str, dict[str, Any]]]  # service, account, region
PARTS = {"account": False, "storage": True}
STORAGE = "s3"


class _Pickler(pickle.Pickler):
    """Private keys (KMS) have no state of their own to pickle: they travel as DER."""

    def reducer_override(self, candidate: Any) -> Any:
        if isinstance(candidate, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
            der = candidate.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            return revived, (der,)
        return NotImplemented


def revived(der: bytes) -> Any:
    """A private key from its DER."""
    return serialization.load_der_private_key(der, None)


def in_use() -> list[BackendDict[Any]]:
    """moto's own list of the services that were used."""
    return list(vars(BackendDict)["_instances"])


class Store:
    """Saves and loads the models of every service that was used."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def save(self, part: str) -> None:
        """Write one part in one step; call it while nobody changes the models."""
        state: State = {}
        for backends in in_use():
            if (backends.service_name == STORAGE) != PARTS[part]:
                continue
            for account, region, backend in backends.iter_backends():
                state.setdefault(backends.service_name, {}).setdefault(account, {})[region] = backend
        buffer = io.BytesIO()
        _Pickler(buffer, protocol=5).dump((moto.__version__, state))
        path = self._path(part)
        partial = path.with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_bytes(buffer.getvalue())
        partial.rename(path)

    def load(self) -> None:
        """Forget what is in memory and put back what was saved; ``SandboxError`` when another moto saved it."""
        for backends in in_use():  # moto's reset would throw away the content of objects
            backends.clear()
        for part in PARTS:
            path = self._path(part)
            if not path.exists():
                continue
            version, state = pickle.loads(path.read_bytes())  # noqa: S301 -- our own file
            if version != moto.__version__:
                raise SandboxError(
                    f"{path} was written by moto {version}, this is {moto.__version__}: run `down` and start again"
                )
            self.restore(state)
        s3_backends.bucket_accounts.clear()  # whose bucket is which stands beside the models
        for account, region, backend in s3_backends.iter_backends():
            if isinstance(backend, S3Backend):
                s3_backends.bucket_accounts |= dict.fromkeys(backend.buckets, (region, account))

    @staticmethod
    def restore(state: State) -> None:
        """Put models in place of the present ones."""
        for service, accounts in state.items():
            for account, regions in accounts.items():
                for region, backend in regions.items():
                    get_backend(service)[account][region] = backend  # type: ignore[call-overload] # the name is not a literal

    @contextlib.contextmanager
    def rollback(self) -> Iterator[None]:
        """Whatever happens inside is taken back; objects of the storage are not."""
        self.save("account")
        try:
            yield
        finally:
            _, state = pickle.loads(self._path("account").read_bytes())  # noqa: S301 -- our own file
            self.restore(state)

    def _path(self, part: str) -> Path:
        return self._folder / f"{part}.pickle"
