"""Memory does not grow with the source: below 300 MB for a gigabyte, encrypted or not, there and back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyrage
import pytest

GIB = 1024**3
LIMIT_MB = 300
SCRIPT = """
import sys
from pathlib import Path
from goud_backup import upload, staging
from goud_backup.codec.sealing import Opener, Sealer, load_identities
from goud_backup.create import _by_file
from goud_backup.progress import Silent
from goud_backup.repository.manifest import Chain, FileEntry, Manifest
from goud_backup.repository.repository import initialize
from goud_backup.targets import open_target
from goud_node.chain.genesis import Genesis, Validator

folder, identity = Path(sys.argv[1]), sys.argv[2]
identities = load_identities(Path(identity)) if identity else []
sealer = Sealer([str(one.to_public()) for one in identities]) if identities else None
genesis = Genesis("m", 1, (Validator("n", bytes(32)),))
repository = initialize(open_target(f"file://{folder}/r"), genesis, encrypted=bool(identities))
source = folder / "000001.sst"
work = list(upload.units([(source, source.stat().st_size)]))
made = upload.Uploader(repository, sealer, {}, Silent()).run(work, 4)
parts, objects = _by_file(made)[source]
entry = FileEntry("rocksdb/000001.sst", source.stat().st_size, 0o644, tuple(parts))
chain = Chain("c", 1, "", 0, None, 0, "", None, 1, None)
manifest = Manifest("r", "20260101T000000Z-000000", 1, None, "", "", chain, {}, {}, {}, {}, objects, (entry,))
source.unlink()
(folder / "out").mkdir()
staging.stage(repository, manifest, folder / "out", Opener(identities), workers=4)
# Not getrusage: its figure begins with that of the process which started this one.
print(int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) // 1024)
"""


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_gigabyte_passes_through_little_memory(tmp_path: Path, *, encrypted: bool) -> None:
    identity = tmp_path / "identity"
    identity.write_text(f"{pyrage.x25519.Identity.generate()}\n")
    block = os.urandom(64 * 1024 * 1024)
    with (tmp_path / "000001.sst").open("wb") as file:
        for number in range(GIB // len(block)):
            file.write(number.to_bytes(8, "big") + block[8:])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(identity) if encrypted else ""],
        check=True,
        capture_output=True,
        text=True,
    )
    assert 20 < int(done.stdout) < LIMIT_MB
    assert (tmp_path / "out/rocksdb/000001.sst").stat().st_size == GIB
    for path in (tmp_path / "out", tmp_path / "r"):
        subprocess.run(["rm", "-rf", str(path)], check=True)
