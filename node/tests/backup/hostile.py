"""Archives that were made to hurt, small on disk; `main` unpacks each and says what came of it, and how much memory
this process has ever held."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from goud_backup import archive
from goud_node.errors import GoudError

MIB = 1024 * 1024
BASE = "goud-chain-backup-local-20260101-000000"


BLANK = tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT)


def header(name: str, size: int = 0, kind: bytes = b"0", **changes: bytes) -> bytes:
    """One block, with fields replaced by their raw bytes and a right checksum."""
    raw = bytearray(BLANK)
    raw[0:100] = changes.get("label", name.encode()[:100]).ljust(100, b"\0")
    raw[156:157] = kind
    raw[124:136] = changes.get("number", f"{size:011o}\0".encode())
    if "magic" in changes:
        raw[257:265] = changes["magic"]
    raw[148:156] = b" " * 8
    raw[148:156] = f"{sum(raw):06o}\0 ".encode()
    return bytes(raw)


def member(name: str, content: bytes = b"", kind: bytes = b"0") -> bytes:
    return header(name, len(content), kind) + content + bytes(-len(content) % 512)


def pax(*records: tuple[str, str]) -> bytes:
    text = b""
    for key, value in records:
        body = f" {key}={value}\n".encode()
        size = len(body)
        while len(str(size)) + len(body) != size:
            size = len(str(size)) + len(body)
        text += str(size).encode() + body
    return member("pax", text, b"x")


END = bytes(1024)
DATABASE = member("chain_id", b"goud-0\n") + member("rocksdb/CURRENT", b"MANIFEST-000001\n")
NEGATIVE = b"\xff" * 12
INNER: dict[str, Callable[[], Iterator[bytes]]] = {
    "long name of GNU": lambda: iter([member("l", b"n" * 3 * MIB, b"L"), member("x"), END]),
    "long link of GNU": lambda: iter([member("l", b"n" * 3 * MIB, b"K"), member("x"), END]),
    "long name of pax": lambda: iter([pax(("path", "rocksdb/" + "n" * 3 * MIB)), member("x"), END]),
    "many long names": lambda: (member("l", b"n" * 1000, b"L") + member(f"x{n}") for n in range(3000)),
    "a chain of extensions": lambda: (pax(("comment", "c" * 40_000)) for _ in range(3000)),
    "a pax record that is longer than it says": lambda: iter([member("p", b"9 path=x" + b"y" * 500, b"x"), END]),
    "a pax record of no length": lambda: iter([member("p", b"0 path=x\n" * 50, b"x"), member("rocksdb/x"), END]),
    "a pax size below zero": lambda: iter([pax(("size", "-512")), member("rocksdb/x"), END]),
    "a pax size of many digits": lambda: iter([pax(("size", "9" * 5000)), member("rocksdb/x"), END]),
    "many small members": lambda: (member(f"rocksdb/{n}.sst") for n in range(100_001)),
    "many folders": lambda: (member(f"rocksdb/{n}", kind=b"5") for n in range(100_001)),
    "a sparse member": lambda: iter([member("rocksdb/x.sst", kind=b"S"), END]),
    "a sparse member of pax": lambda: iter([pax(("GNU.sparse.map", "0,1,99999999999,1")), member("rocksdb/x"), END]),
    "a size below zero": lambda: iter([header("rocksdb/x", number=NEGATIVE), header("rocksdb/x", number=NEGATIVE)]),
    "a size beyond every disk": lambda: iter([header("rocksdb/x", number=b"\x80" + b"\xff" * 11), END]),
    "a size that is no number": lambda: iter([header("rocksdb/x", number=b"twelve bytes"), END]),
    "a file of zeros": lambda: iter([header("rocksdb/x", 1 << 33), *[bytes(MIB)] * 300]),
    "zeros after the end": lambda: iter([DATABASE, END, *[bytes(MIB)] * 300]),
    "something after the end": lambda: iter([DATABASE, END, member("rocksdb/late"), END]),
    "no end": lambda: iter([DATABASE]),
    "a member cut short": lambda: iter([DATABASE, header("rocksdb/x", 9999), b"short"]),
    "a hard link": lambda: iter([DATABASE, member("rocksdb/x", kind=b"1"), END]),
    "a symbolic link": lambda: iter([DATABASE, member("rocksdb/x", kind=b"2"), END]),
    "a device": lambda: iter([DATABASE, member("rocksdb/x", kind=b"3"), END]),
    "a pipe": lambda: iter([DATABASE, member("rocksdb/x", kind=b"6"), END]),
    "an unknown kind": lambda: iter([DATABASE, member("rocksdb/x", kind=b"Z"), END]),
    "a header for all": lambda: iter([member("g", b"", b"g"), DATABASE, END]),
    "a folder with content": lambda: iter([member("rocksdb", b"x", b"5"), END]),
    "a foreign file": lambda: iter([DATABASE, member("etc/passwd", b"x"), END]),
    "a foreign file beside the marker": lambda: iter([DATABASE, member("authorized_keys", b"x"), END]),
    "a folder in the database": lambda: iter([DATABASE, member("rocksdb/a/b", b"x"), END]),
    "a way out": lambda: iter([DATABASE, member("../escaped", b"x"), END]),
    "a way out below": lambda: iter([DATABASE, member("rocksdb/../../escaped", b"x"), END]),
    "a file twice": lambda: iter([DATABASE, member("rocksdb/CURRENT", b"x"), END]),
    "a file twice by other names": lambda: iter([DATABASE, member("./rocksdb/CURRENT", b"x"), END]),
    "a name without text": lambda: iter([DATABASE, header("x", label=b""), END]),
    "a name that is no text": lambda: iter([DATABASE, header("x", label=b"rocksdb/\xff\xfe"), END]),
    "a name with a line break": lambda: iter([DATABASE, member("rocksdb/a\nb", b"x"), END]),
    "a checksum that is wrong": lambda: iter([DATABASE, header("rocksdb/x")[:-1] + b"x", END]),
    "a tar of another kind": lambda: iter([header("rocksdb/x", magic=b"nothing "), END]),
}
OUTER: dict[str, Callable[[], Iterator[bytes]]] = {
    "a long text": lambda: iter([member(f"{BASE}/metadata.txt", bytes(16 * MIB)), END]),
    "many texts": lambda: (member(f"{BASE}/{n}.txt", b"x" * 9000) for n in range(200_000)),
    "a foreign file outside": lambda: iter([member(f"{BASE}/run.sh", b"x"), END]),
    "a text twice": lambda: iter([member("a/metadata.txt", b"x"), member("b/metadata.txt", b"x"), END]),
    "metadata of the wrong kind": lambda: iter([member("metadata.json", b'{"height": 1e999}'), END]),
    "metadata beyond depth": lambda: iter([member("metadata.json", b'{"x":' + b"[" * 200_000), END]),
    "many folders with long names": lambda: (
        pax(("path", f"{chr(0x1F600) * 1000}{n}")) + member(f"{n}", kind=b"5") for n in range(99_000)
    ),
    "a compressed volume of zeros": lambda: iter([member("v.tar.gz", packed(iter([bytes(MIB)] * 300))), END]),
    "a compressed volume that is none": lambda: iter([member("v.tar.gz", b"nothing"), END]),
}


def packed(content: Iterator[bytes]) -> bytes:
    buffer = io.BytesIO()
    with gzip.open(buffer, "wb", compresslevel=1) as file:
        for data in content:
            file.write(data)
    return buffer.getvalue()


def write(path: Path, content: Iterator[bytes]) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for data in content:
            file.write(data)


def around(content: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
    """The outer tar of a volume."""
    size = sum(len(data) for data in content())
    yield header(f"{BASE}/node1_data.tar", size)
    yield from content()
    yield bytes(-size % 512) + END


def archives() -> dict[str, Callable[[], Iterator[bytes]]]:
    return {name: lambda make=make: around(make) for name, make in INNER.items()} | OUTER


def peak_mb() -> int:
    """The most memory of this program so far, in MB. (`ru_maxrss` also knows that of the process which started it.)"""
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kilobytes) // 1024


def main(folder: Path) -> None:
    for name, make in archives().items():
        path, out = folder / "archive.tar.gz", folder / "out"
        write(path, make())
        ends = []
        for read in (lambda p=path, o=out: archive.unpack(p, o, None), lambda p=path: archive.metadata(p)):
            try:
                ends.append(repr(read()))
            except GoudError as error:
                ends.append(f"{error.code}: {error}")
        written = [str(entry) for entry in out.rglob("*")] if out.exists() else []
        line = {
            "name": name,
            "end": ends[0],
            "plan": ends[1],
            "written": written,
            "peak_mb": peak_mb(),
            "size": path.stat().st_size,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
