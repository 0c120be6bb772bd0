"""Reads a repository from docs/repository-format.md alone: nothing of goud_backup or goud_node is imported here."""

from __future__ import annotations

import base64
import gzip
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import cbor2
import pyrage
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def plain(stored: bytes, encoding: str, identity: pyrage.x25519.Identity | None) -> bytes:
    if encoding.startswith("sealed+"):
        stored, encoding = unsealed(stored, identity), encoding.removeprefix("sealed+")
    return gzip.decompress(stored) if encoding == "gzip" else stored


def unsealed(stored: bytes, identity: pyrage.x25519.Identity | None) -> bytes:
    assert stored[:8] == b"goudage1"
    start = 12 + int.from_bytes(stored[8:12], "big")
    key = pyrage.decrypt(stored[12:start], [identity])
    cipher = AESGCM(HKDF(SHA256(), 32, stored[start : start + 32], b"goud-backup object v1").derive(key))
    body = stored[start + 32 :]
    frames = [body[at : at + 1_048_592] for at in range(0, len(body), 1_048_592)]
    last = len(frames) - 1
    return b"".join(
        cipher.decrypt(number.to_bytes(11, "big") + bytes([number == last]), frame, None)
        for number, frame in enumerate(frames)
    )


def restore(repository: Path, folder: Path, identity: pyrage.x25519.Identity | None) -> dict[str, Any]:
    """Write the files of the newest backup; its manifest."""
    path = max((repository / "manifests").iterdir())
    manifest: dict[str, Any] = json.loads(path.read_bytes())
    told = manifest.pop("sha256")
    assert sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest() == told
    assert json.loads((repository / "latest.json").read_bytes())["sha256"] == told
    files = manifest.get("files")
    if files is None:
        files = json.loads(plain(base64.b64decode(manifest["sealed_files"]), "sealed+gzip", identity))
    for file in files:
        content = b""
        for name, offset, length, digest in file["parts"]:
            stored = (repository / "objects" / name[:2] / name).read_bytes()
            assert sha256(stored).hexdigest() == name
            part = plain(stored, manifest["objects"][name][2], identity)[offset : offset + length]
            assert sha256(part).hexdigest() == digest
            content += part
        (folder / file["path"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / file["path"]).write_bytes(content)
    return manifest


def hashes(repository: Path, identity: pyrage.x25519.Identity | None) -> dict[int, str]:
    """Height and hash of every shipped block."""
    found = {}
    for path in sorted((repository / "segments").iterdir()):
        stored = path.read_bytes()
        assert sha256(stored).hexdigest() == path.stem.split("-")[2]
        start = 12 + int.from_bytes(stored[8:12], "big")
        header = json.loads(stored[12:start])
        for block, certificate in cbor2.loads(plain(stored[start:], header["encoding"], identity)):
            fields = cbor2.loads(block)[0]
            found[fields[1]] = sha256(cbor2.dumps(fields, canonical=True)).hexdigest()
            assert cbor2.loads(certificate)[1].hex() == found[fields[1]]
    return found
