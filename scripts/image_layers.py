"""Make a built image reproducible: same files, same bytes, same id.

A build stamps times, orders directory entries as the file system likes, and records the container it ran in. Here the
saved image is written again with those taken out; the base image's own layers stay as they are.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

_CONFIG_KEYS = (
    "User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Healthcheck", "Volumes", "WorkingDir", "Labels", "StopSignal",
)  # fmt: skip
_GZIP = b"\x1f\x8b"
_XATTR = "SCHILY.xattr."


class _Hashing(io.RawIOBase):
    """Write through to a file while hashing what passes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.state = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.state.update(data)
        return self._stream.write(data)


def _canonical(members: list[tarfile.TarInfo]) -> tuple[list[tarfile.TarInfo], dict[str, str]]:
    """Order a layer's entries; return them and, for each file, the entry that holds its bytes.

    Of several hard links the first by name becomes the file: which one a build stored is chance.
    """
    by_name = {member.name: member for member in members}
    groups: dict[str, list[str]] = {}
    for member in members:
        if member.islnk():
            groups.setdefault(member.linkname, [member.linkname]).append(member.name)
    content = {name: name for name, member in by_name.items() if member.isreg()}
    for holder, names in groups.items():
        if holder not in by_name:
            continue  # links to a file of a lower layer
        first = min(names)
        for name in names:
            member = by_name[name]
            content.pop(name, None)
            if name == first:
                member.type, member.linkname, member.size = tarfile.REGTYPE, "", by_name[holder].size
                content[name] = holder
        for name in set(names) - {first}:
            by_name[name].type, by_name[name].linkname = tarfile.LNKTYPE, first
    return sorted(by_name.values(), key=lambda member: (member.islnk(), member.name)), content


def normalise_layer(source: IO[bytes], target: IO[bytes], epoch: int) -> str:
    """Copy one layer's tar with time stamps, order and owner names fixed; return its `sha256:` diff id.

    `source` must be seekable and uncompressed.
    """
    sink = _Hashing(target)
    with (
        tarfile.open(fileobj=source, mode="r:") as reader,
        tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as writer,
    ):
        members = {member.name: member for member in reader.getmembers()}
        offsets = {name: (member.offset_data, member.size) for name, member in members.items()}
        entries, content = _canonical(list(members.values()))
        for member in entries:
            member.mtime = min(int(member.mtime), epoch)
            member.uname = member.gname = ""
            member.pax_headers = {key: value for key, value in member.pax_headers.items() if key.startswith(_XATTR)}
            if not member.isreg():
                member.size = 0
                writer.addfile(member)
                continue
            start, member.size = offsets[content[member.name]]
            source.seek(start)
            writer.addfile(member, source)
    return f"sha256:{sink.state.hexdigest()}"


@contextmanager
def _layer(archive: tarfile.TarFile, name: str, scratch: Path) -> Iterator[IO[bytes]]:
    """Open one layer of a saved image, uncompressed and seekable."""
    stream = archive.extractfile(name)  # follows the links older engines store for repeated layers
    if stream is None:
        raise ValueError(f"the saved image has no layer {name}")
    start = stream.read(2)
    stream.seek(0)
    if start != _GZIP:
        yield stream
        return
    plain = scratch / "layer.plain"
    with gzip.open(stream) as packed, plain.open("wb") as out:
        while block := packed.read(1 << 20):
            out.write(block)
    with plain.open("rb") as plain_stream:
        yield plain_stream
    plain.unlink()


def _configuration(
    original: Mapping[str, Any], diff_ids: Sequence[str], labels: Mapping[str, str], epoch: int
) -> bytes:
    """Return the image's configuration with nothing in it that a second build would change."""
    config = {
        key: value
        for key in _CONFIG_KEYS
        if (value := (original.get("config") or {}).get(key)) not in (None, "", {}, [])
    }
    config["Labels"] = dict(labels)
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    document = {
        "architecture": original["architecture"],
        "os": original["os"],
        "created": created,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": [{"created": created, "created_by": f"layer {number}"} for number in range(1, len(diff_ids) + 1)],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def normalise_image(  # the whole conversion, one argument each for what decides it
    saved: Path, target: Path, *, reference: str, base_layers: Sequence[str], labels: Mapping[str, str], epoch: int
) -> None:
    """Write the saved image again as `target`, reproducible and tagged `reference`, for `docker load`."""
    with tarfile.open(saved) as archive, tarfile.open(target, "w") as out:

        def add(name: str, path: Path) -> None:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = path.stat().st_size, epoch
            with path.open("rb") as stream:
                out.addfile(entry, stream)

        def read(name: str) -> bytes:
            stream = archive.extractfile(name)
            if stream is None:
                raise ValueError(f"the saved image has no {name}")
            return stream.read()

        (manifest,) = json.loads(read("manifest.json"))
        original = json.loads(read(manifest["Config"]))
        diff_ids: list[str] = []
        names: list[str] = []
        scratch = target.with_suffix(".layer")
        for number, name in enumerate(manifest["Layers"]):
            untouched = number < len(base_layers) and original["rootfs"]["diff_ids"][number] == base_layers[number]
            with _layer(archive, name, target.parent) as stream, scratch.open("wb") as layer:
                diff_ids.append(copy_layer(stream, layer) if untouched else normalise_layer(stream, layer, epoch))
            names.append(f"{diff_ids[-1].removeprefix('sha256:')}/layer.tar")
            if names[-1] not in names[:-1]:
                add(names[-1], scratch)
        scratch.unlink()
        configuration = _configuration(original, diff_ids, labels, epoch)
        config_name = f"{hashlib.sha256(configuration).hexdigest()}.json"
        scratch.write_bytes(configuration)
        add(config_name, scratch)
        scratch.write_text(json.dumps([{"Config": config_name, "RepoTags": [reference], "Layers": names}]))
        add("manifest.json", scratch)
        scratch.unlink()


def copy_layer(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy a layer unchanged; return its diff id."""
    state = hashlib.sha256()
    while block := source.read(1 << 20):
        state.update(block)
        target.write(block)
    return f"sha256:{state.hexdigest()}"
