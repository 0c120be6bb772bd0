"""What an image of ours is made from: locked wheels for its Python, the node's own wheel, one digest over all of it."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
EPOCH = 1704067200  # 2024-01-01: every time stamp in an image; a constant, so that the same inputs give the same bytes
IMAGE_PYTHON = "3.13"  # Debian 13's
_NODE_FILES = ("**/*.py", "**/py.typed")


class ImageError(Exception):
    """An image cannot be made; the text says why and what to do."""


@dataclass(frozen=True)
class Component:
    """One image: its Dockerfile, and whether the node's wheels belong to it."""

    name: str
    dockerfile: Path
    wheels: bool = False


COMPONENTS = {
    component.name: component
    for component in (
        Component("node", Path("node/Dockerfile"), wheels=True),
        Component("etcd", Path("roles/coordination/files/Dockerfile")),
        Component("haproxy", Path("roles/load_balancer/files/Dockerfile")),
    )
}


def locked(lock: str) -> dict[str, str]:
    """Return canonical name -> the lock's own lines (version, marker, hashes) of each requirement."""
    blocks: dict[str, list[str]] = {}
    block: list[str] = []
    for line in lock.splitlines():
        if match := re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)(\[[^]]*\])?==", line):
            block = blocks.setdefault(canonicalize_name(match[1]), [])
            block.append(line)
        elif line.startswith("    --hash="):
            block.append(line)
    return {name: "\n".join(lines) for name, lines in blocks.items()}


def closure(requirements: Iterable[str], python: str = IMAGE_PYTHON) -> set[str]:
    """Return the canonical names of everything `requirements` need on the image's Python.

    Reads the metadata of the packages installed here, which come from the same lock.
    """
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    pairs: set[tuple[str, str]] = set()
    queue = [Requirement(text) for text in requirements]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        for extra in sorted(requirement.extras | {""}):
            if (name, extra) in pairs:
                continue
            pairs.add((name, extra))
            for text in _requires(name):
                dependency = Requirement(text)
                if dependency.marker is None or dependency.marker.evaluate({**environment, "extra": extra}):
                    queue.append(dependency)
    return {name for name, _ in pairs}


def _requires(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError as error:
        raise ImageError(f"{name} is not installed in .venv: run scripts/bootstrap, then try again") from error


def node_requirements(root: Path = ROOT) -> str:
    """Return the part of requirements.lock that the node needs, hashes included."""
    project = tomllib.loads((root / "node/pyproject.toml").read_text(encoding="utf-8"))["project"]
    blocks = locked((root / "requirements.lock").read_text(encoding="utf-8"))
    names = sorted(closure(project["dependencies"]))
    missing = [name for name in names if name not in blocks]
    if missing:
        raise ImageError(f"requirements.lock lacks {', '.join(missing)}: run scripts/lock")
    return "\n".join(blocks[name] for name in names) + "\n"


def node_sources(root: Path = ROOT) -> dict[str, Path]:
    """Return the files of the node's distribution by their path inside it, sorted."""
    base = root / "node"
    paths = {path for pattern in _NODE_FILES for path in (base / "src").glob(pattern)}
    paths.add(base / "pyproject.toml")
    return {path.relative_to(base).as_posix(): path for path in sorted(paths)}


def digest(component: Component, base_layers: Iterable[str], root: Path = ROOT, *, wheel: Path | None = None) -> str:
    """Return the hexadecimal digest over everything that decides the image's content.

    `wheel` is the node's wheel of an earlier release, in place of the one that is built from the sources here.
    """
    state = hashlib.sha256()

    def add(label: str, content: bytes) -> None:
        state.update(f"{label}\0{len(content)}\0".encode())
        state.update(content)

    for layer in base_layers:
        add("base", layer.encode())
    add("dockerfile", (root / component.dockerfile).read_bytes())
    for tool in ("image.py", "image_inputs.py", "image_layers.py"):
        add(tool, Path(__file__).with_name(tool).read_bytes())
    if component.wheels:
        add("machine", platform.machine().encode())
        add("requirements", node_requirements(root).encode())
        add("setuptools", metadata.version("setuptools").encode())
        for name, path in node_sources(root).items() if wheel is None else [(wheel.name, wheel)]:
            add(name, path.read_bytes())
    return state.hexdigest()


def _pip(arguments: list[str], environment: Mapping[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(
        command, check=False, text=True, capture_output=True, env={**os.environ, **(environment or {})}
    )
    if result.returncode != 0:
        raise ImageError(f"pip {arguments[0]} failed:\n{result.stdout}{result.stderr}")


def third_party_wheels(requirements: str, cache: Path) -> Path:
    """Return a folder with the wheel of every requirement, downloaded once and verified by the lock's hashes."""
    key = hashlib.sha256(f"{IMAGE_PYTHON} {platform.machine()} {requirements}".encode()).hexdigest()[:16]
    target = cache / key
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        listing = Path(scratch) / "requirements.txt"
        listing.write_text(requirements, encoding="utf-8")
        wheels = Path(scratch) / "wheels"
        options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version", IMAGE_PYTHON]
        _pip(["download", "--quiet", *options, "--dest", str(wheels), "--requirement", str(listing)])
        wheels.rename(target)
    return target


def node_wheel(destination: Path, root: Path = ROOT) -> Path:
    """Build the node's wheel from a clean copy of its sources; the same sources give the same bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "node"
        for name, path in node_sources(root).items():
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            shutil.copyfile(path, target)
            target.chmod(0o644)
        options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir"]
        settings = {"SOURCE_DATE_EPOCH": str(EPOCH), "PYTHONHASHSEED": "0"}
        _pip(["wheel", *options, "--wheel-dir", str(destination), str(copy)], settings)
    (wheel,) = destination.glob("goud_node-*.whl")
    return wheel


def prepare(component: Component, context: Path, cache: Path, root: Path = ROOT, *, wheel: Path | None = None) -> None:
    """Fill a build context: the Dockerfile, and for the node its wheels, each with a requirements file of hashes."""
    shutil.copyfile(root / component.dockerfile, context / "Dockerfile")
    if not component.wheels:
        return
    requirements = node_requirements(root)
    shutil.copytree(third_party_wheels(requirements, cache), context / "wheels")
    (context / "wheels/requirements.txt").write_text(requirements, encoding="utf-8")
    (context / "own").mkdir()
    if wheel is None:
        wheel = node_wheel(context / "own", root)
    else:
        shutil.copyfile(wheel, context / "own" / wheel.name)
    version = wheel.name.split("-")[1]
    requirement = f"goud-node=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
    (context / "own/requirements.txt").write_text(requirement, encoding="utf-8")
    for path in (*context.glob("wheels/*"), *context.glob("own/*")):
        path.chmod(0o644)
        os.utime(path, (EPOCH, EPOCH))
