"""Data disks: what counts as blank, what is refused, and that a refusal says what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import goud_disk

SIZE = 64 * goud_disk.MIB


@pytest.fixture
def blank(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


def put(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_zeros_are_blank(blank: Path) -> None:
    assert goud_disk.is_blank(blank, SIZE)


@pytest.mark.parametrize("offset", [0, goud_disk.MIB - 1, SIZE - 1, SIZE - goud_disk.MIB])
def test_one_byte_at_either_end_is_not_blank(blank: Path, offset: int) -> None:
    put(blank, offset, b"x")
    assert not goud_disk.is_blank(blank, SIZE)


def test_data_between_the_ends_is_not_blank(blank: Path) -> None:
    put(blank, 20 * goud_disk.MIB, os.urandom(2 * goud_disk.MIB))
    assert not goud_disk.is_blank(blank, SIZE)


def test_samples_stay_on_the_disk() -> None:
    for size in (1, goud_disk.MIB, 2 * goud_disk.MIB + 4096 * 64 + 1, SIZE, 10**12 + 512):
        assert all(offset >= 0 and length and offset + length <= size for offset, length in goud_disk.samples(size))


def disk(**values: object) -> goud_disk.Disk:
    about: dict[str, object] = {"device": "/dev/x", "present": True, "real": "/dev/sdb", "kind": "disk", "bytes": SIZE}
    return goud_disk.Disk(**(about | values))  # type: ignore[arg-type] # values of several types


def text_of(subject: goud_disk.Disk, mount: str, minimum: int = 0) -> str:
    return "\n".join(goud_disk.problems(subject, mount, minimum, 5))


def test_blank_and_supported_disks_have_no_problem(tmp_path: Path) -> None:
    assert not text_of(disk(blank=True), str(tmp_path))
    assert not text_of(disk(filesystem="xfs", signatures=[{"type": "xfs"}]), str(tmp_path))


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        (disk(signatures=[{"type": "LVM2_member"}]), "foreign signature: LVM2_member. It is not formatted"),
        (disk(signatures=[{"type": "swap", "label": "old"}]), "swap (label old)"),
        (disk(kind="divided into sdb1", signatures=[{"type": "gpt"}]), "foreign signature: gpt"),
        (disk(kind="a partition", blank=True), "is a partition, not a free whole disk"),
        (disk(kind="part of md0", filesystem="xfs", signatures=[{"type": "xfs"}]), "is part of md0"),
        (disk(), "not blank and holds nothing that is recognised"),
        (disk(bytes=0), "has no medium"),
        (disk(filesystem="xfs", signatures=[{"type": "xfs"}], mounts=["/mnt"]), "is mounted on /mnt"),
        (disk(filesystem="xfs", signatures=[{"type": "xfs"}], filesystem_bytes=2 * SIZE), "was made smaller"),
    ],
)
def test_everything_else_is_refused(subject: goud_disk.Disk, words: str, tmp_path: Path) -> None:
    assert words in text_of(subject, str(tmp_path))


def test_a_size_that_does_not_come_names_the_level(tmp_path: Path) -> None:
    text = text_of(disk(blank=True), str(tmp_path), minimum=2 * SIZE)
    assert text.startswith("block device: ")
    assert f"has {SIZE} bytes after 5 s, not {2 * SIZE}" in text


def test_an_absent_disk_names_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "google-other").touch()
    text = text_of(goud_disk.Disk(str(tmp_path / "google-data")), "/nowhere")
    assert "did not appear within 5 s" in text
    assert "google-other" in text


def test_a_mount_point_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (problem,) = goud_disk.mount_point_problems(disk(), tmp_path, "")
    assert "files of the root disk" in problem


def test_a_mount_point_that_is_taken_is_refused(tmp_path: Path) -> None:
    line = f"36 35 8:1 / {tmp_path} rw - ext4 /dev/sda1 rw"
    (problem,) = goud_disk.mount_point_problems(disk(), tmp_path, line)
    assert "something else is mounted" in problem
    assert "8:1" in problem


def test_mounts_are_found_by_number_and_unescaped() -> None:
    text = "36 35 8:16 / /srv/a\\040b rw - xfs /dev/sdb rw\n37 35 8:17 / /other rw - xfs /dev/sdc rw"
    assert goud_disk.mounts_of(os.makedev(8, 16), text) == ["/srv/a b"]


def test_waiting_ends(tmp_path: Path) -> None:
    moments = iter([0.0, 0.0, 2.0])
    goud_disk.wait(tmp_path / "never", 1, 1.0, clock=lambda: next(moments))


def test_what_a_device_is(tmp_path: Path) -> None:
    for name, inner in {"sda1": "partition", "dm-0": "dm/name", "md0": "md/level"}.items():
        (tmp_path / name / inner).parent.mkdir(parents=True)
        (tmp_path / name / inner).touch()
    (tmp_path / "sdb/holders/md0").mkdir(parents=True)
    (tmp_path / "sdc/sdc1").mkdir(parents=True)
    (tmp_path / "sdc/sdc1/partition").touch()
    (tmp_path / "sdd").mkdir()
    kinds = {name: goud_disk.kind_of(name, tmp_path) for name in ("sda1", "dm-0", "md0", "sdb", "sdc", "sdd")}
    assert kinds == {
        "sda1": "a partition",
        "dm-0": "a mapped device (LVM, encryption)",
        "md0": "a RAID array",
        "sdb": "part of md0",
        "sdc": "divided into sdc1",
        "sdd": "disk",
    }


def test_the_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    assert goud_disk.probe(tmp_path) is None or "O_DIRECT" in str(goud_disk.probe(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_probe_tells_what_went_wrong(tmp_path: Path) -> None:
    text = goud_disk.probe(tmp_path / "missing")
    assert text is not None
    assert "cannot be written and read back (No such file or directory)" in text
