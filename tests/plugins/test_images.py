"""Images: the same inputs give the same bytes, whatever a build stamps on them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import image_inputs
import image_layers

EPOCH = image_inputs.EPOCH


def layer(entries: Sequence[tuple[str, bytes | str]], *, mtime: int, owner: str = "root") -> bytes:
    """A layer's tar; bytes make a file, text a hard link to that name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.mtime, entry.uname = mtime, owner
            if isinstance(content, bytes):
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
            else:
                entry.type, entry.linkname = tarfile.LNKTYPE, content
                archive.addfile(entry)
    return out.getvalue()


def normalised(content: bytes) -> tuple[str, bytes]:
    out = io.BytesIO()
    diff_id = image_layers.normalise_layer(io.BytesIO(content), out, EPOCH)
    return diff_id, out.getvalue()


def test_time_order_and_owner_names_do_not_matter() -> None:
    first = layer([("a", b"1"), ("b/c", b"22")], mtime=EPOCH + 5)
    second = layer([("b/c", b"22"), ("a", b"1")], mtime=EPOCH + 99, owner="other")
    assert first != second
    assert normalised(first) == normalised(second)


def test_content_does_matter() -> None:
    assert normalised(layer([("a", b"1")], mtime=1)) != normalised(layer([("a", b"2")], mtime=1))


def test_which_hard_link_was_stored_does_not_matter() -> None:
    first = layer([("x", b"same"), ("a", "x"), ("m", "x")], mtime=EPOCH + 1)
    second = layer([("a", b"same"), ("x", "a"), ("m", "a")], mtime=EPOCH + 2)
    _, out = normalised(first)
    assert normalised(first) == normalised(second)
    with tarfile.open(fileobj=io.BytesIO(out)) as archive:
        links = {member.name: (member.islnk(), member.linkname) for member in archive}
        assert links == {"a": (False, ""), "m": (True, "a"), "x": (True, "a")}
        stream = archive.extractfile("x")
        assert stream is not None
        assert stream.read() == b"same"


def test_diff_id_is_the_hash_of_the_bytes() -> None:
    diff_id, out = normalised(layer([("a", b"1" * 100_000)], mtime=1))
    assert diff_id == f"sha256:{hashlib.sha256(out).hexdigest()}"


def saved_image(path: Path, own: bytes, *, created: str) -> list[str]:
    base = layer([("base", b"x")], mtime=7)
    diff_ids = [f"sha256:{hashlib.sha256(part).hexdigest()}" for part in (base, own)]
    configuration = {
        "architecture": "amd64", "os": "linux", "created": created, "container": created,
        "config": {"User": "10001", "Cmd": ["serve"], "Hostname": created, "Labels": {"io.goud-chain.stage": "final"}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }  # fmt: skip
    members = {
        "manifest.json": json.dumps(
            [{"Config": "c.json", "RepoTags": ["x"], "Layers": ["0/layer.tar", "1/layer.tar"]}]
        ),
        "c.json": json.dumps(configuration),
    }
    with tarfile.open(path, "w") as archive:
        parts = {"0/layer.tar": base, "1/layer.tar": own} | {name: text.encode() for name, text in members.items()}
        for name, content in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return diff_ids


def test_two_builds_of_one_image_load_as_one(tmp_path: Path) -> None:
    results = []
    for number, created in enumerate(("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z")):
        saved, target = tmp_path / f"{number}.tar", tmp_path / f"{number}.out"
        own = layer([("own", b"y")], mtime=EPOCH + 1 + number)
        base, _ = saved_image(saved, own, created=created)
        image_layers.normalise_image(
            saved, target, reference="goud-chain/x:1", base_layers=[base], labels={"a": "b"}, epoch=EPOCH
        )
        results.append(target.read_bytes())
        with tarfile.open(target) as archive:
            stream = archive.extractfile("manifest.json")
            assert stream is not None
            (manifest,) = json.load(stream)
            stream = archive.extractfile(manifest["Config"])
            assert stream is not None
            text = stream.read()
        configuration = json.loads(text)
        assert manifest["Config"] == f"{hashlib.sha256(text).hexdigest()}.json"
        assert configuration["rootfs"]["diff_ids"][0] == base
        assert configuration["config"] == {"User": "10001", "Cmd": ["serve"], "Labels": {"a": "b"}}
    assert results[0] == results[1]


LOCK = """# a comment
alpha==1.0 ; sys_platform == 'linux' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via beta
beta[extra]==2.0 \\
    --hash=sha256:cc
"""


def test_lock_is_cut_into_requirements() -> None:
    blocks = image_inputs.locked(LOCK)
    assert set(blocks) == {"alpha", "beta"}
    assert blocks["alpha"].splitlines()[-1] == "    --hash=sha256:bb"
    assert "via" not in blocks["alpha"]


def test_closure_of_the_node_holds_what_it_imports_and_no_tool() -> None:
    text = image_inputs.node_requirements()
    names = {line.split("==")[0] for line in text.splitlines() if "==" in line}
    assert {"fastapi", "starlette", "rocksdict", "grpcio", "uvloop", "cryptography"} <= names
    assert not names & {"ansible", "ansible-core", "pytest", "uv", "setuptools", "mypy", "moto"}
    assert text.count("--hash=sha256:") >= len(names)


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(image_inputs.ImageError, match="no-such-package-of-ours is not installed"):
        image_inputs.closure(["no-such-package-of-ours"])


def test_digest_changes_with_every_input() -> None:
    component = image_inputs.COMPONENTS["etcd"]
    assert image_inputs.digest(component, ["a"]) == image_inputs.digest(component, ["a"])
    different = {
        image_inputs.digest(component, ["a"]),
        image_inputs.digest(component, ["b"]),
        image_inputs.digest(image_inputs.COMPONENTS["haproxy"], ["a"]),
        image_inputs.digest(image_inputs.COMPONENTS["node"], ["a"]),
    }
    assert len(different) == 4


def test_the_nodes_wheel_is_reproducible(tmp_path: Path) -> None:
    wheels = [image_inputs.node_wheel(tmp_path / name).read_bytes() for name in ("first", "second")]
    assert wheels[0] == wheels[1]


def test_the_wheel_of_an_earlier_release_decides_the_image(tmp_path: Path) -> None:
    node = image_inputs.COMPONENTS["node"]
    wheel = tmp_path / "goud_node-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"first")
    earlier = image_inputs.digest(node, [], wheel=wheel)
    assert earlier != image_inputs.digest(node, [])
    assert earlier == image_inputs.digest(node, [], wheel=wheel)
    wheel.write_bytes(b"second")
    assert earlier != image_inputs.digest(node, [], wheel=wheel)
