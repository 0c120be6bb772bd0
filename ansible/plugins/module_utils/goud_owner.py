"""To which checkout the cluster on an engine belongs.

A checkout knows itself by a card beside its keys: an identity, and the folder in which it was written. The engine knows
the checkout by a mark: an empty volume whose labels are that identity and that folder, and which outlives containers.
What was deployed before there were marks is known by the folders that its containers are configured from.

Pure functions without Ansible, over what the engine answered and the checkout's own folders.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLUSTER = "io.goud-chain.cluster"
_ROLE = "io.goud-chain.role"
_IDENTITY = "io.goud-chain.checkout"
_FOLDER = "io.goud-chain.checkout-folder"
_PARTS = {"chain_node", "coordination", "load_balancer"}
_CARD = "checkout.json"


@dataclass(frozen=True)
class Checkout:
    """This checkout, in one environment: its folders of keys and of state, and what its card says.

    `original` is the folder of keys that these were copied from, when that still exists.
    """

    keys: Path
    state: Path
    identity: str = ""
    original: Path | None = None

    @property
    def deployed(self) -> bool:
        """Tell whether a part was ever proven from here."""
        return any(self.state.glob("*/current.json"))


@dataclass(frozen=True)
class Traces:
    """What a cluster has on an engine: its mark's labels, the folders of its containers' configuration, its volumes."""

    mark: Mapping[str, str] | None = None
    folders: tuple[Path, ...] = ()
    volumes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.mark is not None or bool(self.folders or self.volumes)


@dataclass(frozen=True)
class Owner:
    """Another checkout: a folder of it (None: nothing tells), and whether it still exists."""

    folder: Path | None = None
    present: bool = False


def mark_name(cluster: str) -> str:
    """The name of the volume that is the mark."""
    return f"{cluster}-owner"


def mark_labels(cluster: str, checkout: Checkout) -> dict[str, str]:
    """The labels of this checkout's mark."""
    return {CLUSTER: cluster, _ROLE: "owner", _IDENTITY: checkout.identity, _FOLDER: str(checkout.keys)}


def traces(cluster: str, containers: Iterable[Mapping[str, Any]], volumes: Iterable[Mapping[str, Any]]) -> Traces:
    """What the engine's lists of containers and volumes (as its API gives them) show of the cluster."""
    labels = {str(volume["Name"]): volume.get("Labels") or {} for volume in volumes}
    mounts = [
        mount
        for container in containers
        if (container.get("Labels") or {}).get(_ROLE) in _PARTS
        for mount in container.get("Mounts") or []
    ]
    folders = {Path(mount["Source"]) for mount in mounts if mount.get("Type") == "bind" and _configures(mount)}
    mark = labels.pop(mark_name(cluster), None)
    return Traces(mark, tuple(sorted(folders)), tuple(sorted(labels)))


def _configures(mount: Mapping[str, Any]) -> bool:
    return str(mount.get("Destination", "")).startswith("/etc/")


def read_checkout(keys: Path, state: Path) -> Checkout:
    """This checkout as its card tells; without a card it has no identity yet. Paths are absolute, links followed."""
    keys, state = keys.resolve(), state.resolve()
    card = _card(keys)
    identity, folder = card.get("identity", ""), Path(card.get("folder") or keys)
    copied = not _same(folder, keys) and _holds(folder, identity)
    return Checkout(keys, state, identity, folder if copied else None)


def _card(keys: Path) -> dict[str, str]:
    try:
        content = json.loads((keys / _CARD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return {str(name): str(value) for name, value in content.items()} if isinstance(content, dict) else {}


def _holds(keys: Path, identity: str) -> bool:
    """Tell whether a checkout of this identity is there; one that may not be looked into is."""
    try:
        return bool(identity) and _card(keys).get("identity") == identity
    except PermissionError:
        return True


def _same(path: Path, other: Path) -> bool:
    try:
        return path == other or path.samefile(other)
    except OSError:
        return False


def other_owner(evidence: Traces, checkout: Checkout) -> Owner | None:
    """The other checkout to which the cluster belongs; None when it is this one's, or nobody's."""
    if evidence.mark is not None:
        return _owner_by_mark(evidence.mark, checkout)
    if evidence.folders:
        return _owner_by_folders(evidence.folders, checkout)
    if evidence.volumes and checkout.original is not None:
        return Owner(checkout.original, present=True)
    return Owner() if evidence.volumes and not checkout.deployed else None


def _owner_by_mark(mark: Mapping[str, str], checkout: Checkout) -> Owner | None:
    identity, folder = mark.get(_IDENTITY, ""), Path(mark.get(_FOLDER, "/"))
    if checkout.original is not None and checkout.identity == identity:
        return Owner(checkout.original, present=True)
    elsewhere = not _same(folder, checkout.keys) and _holds(folder, identity)
    if checkout.identity == identity and not elsewhere:
        return None
    return Owner(folder, present=elsewhere)


def _owner_by_folders(folders: Iterable[Path], checkout: Checkout) -> Owner | None:
    for folder in folders:
        if folder.resolve().is_relative_to(checkout.state):
            continue
        present = os.path.lexists(folder)
        if present or not _moved(folder, checkout.state):
            return Owner(folder, present=present)
    return None


def _moved(folder: Path, state: Path) -> bool:
    """Tell whether a folder that is gone lies in this state folder now, under the same last names."""
    return any((state / Path(*folder.parts[start:])).exists() for start in range(1, len(folder.parts) - 1))


def other_images(
    cluster: str, containers: Iterable[Mapping[str, Any]], volumes: Iterable[Mapping[str, Any]]
) -> tuple[set[str], list[str]]:
    """The images that records of the engine's other clusters name, and those clusters whose records cannot be read.

    A cluster that is stopped has no containers: only its records tell with which images it starts again.
    """
    labels = [entry.get("Labels") or {} for entry in [*containers, *volumes]]
    folders = {str(label[CLUSTER]): "" for label in labels if label.get(CLUSTER, cluster) != cluster}
    folders |= {
        label[CLUSTER]: label[_FOLDER] for label in labels if label.get(CLUSTER) in folders and _FOLDER in label
    }
    images = {name: _recorded_images(Path(folder)) if folder else set() for name, folder in folders.items()}
    return set().union(*images.values()), sorted(name for name, recorded in images.items() if not recorded)


def _recorded_images(keys: Path) -> set[str]:
    """The images of all releases that were proven from a checkout; none when one record cannot be read."""
    images = set()
    try:
        for part in (keys.parents[1] / ".state" / keys.name).iterdir():
            for name in ("current.json", "previous.json"):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    images.add(str(json.loads((part / name).read_text(encoding="utf-8"))["image"]))
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return set()
    return images


def refusal(cluster: str, owner: Owner, evidence: Traces, checkout: Checkout) -> str:
    """Why nothing may be changed here, and what to do."""
    own_root = root(checkout.keys)
    adopt = (
        "If it is gone for good, take the cluster over: -e goud_adopt=true. To serve its chain needs its keys "
        f"({checkout.keys}); without them ./run clean is what is left to do."
    )
    if owner.folder is None:
        volumes = ", ".join(evidence.volumes)
        return (
            f"the data volumes of the cluster {cluster} on this engine ({volumes}) are another checkout's: this one "
            f"({own_root}) has deployed nothing. Nothing was touched. Go to the checkout that did. {adopt}"
        )
    other_root = root(owner.folder)
    if owner.present:
        return (
            f"the cluster {cluster} on this engine belongs to the checkout {other_root}, not to this one ({own_root}). "
            f"Nothing was touched. Go there (cd {other_root}); if this one is to take its place, "
            "move that one away first."
        )
    if other_root == own_root:
        return (
            f"the cluster {cluster} on this engine was deployed from here, with keys that no longer exist "
            f"({checkout.keys}). Nothing was touched. Put them back. {adopt}"
        )
    return (
        f"the cluster {cluster} on this engine belongs to a checkout that was {other_root} and no longer exists. "
        f"Nothing was touched. If it was moved, go to where it is now. {adopt}"
    )


def root(folder: Path) -> Path:
    """The checkout of one of its folders, as far as its name tells."""
    inner = next((part for part in folder.parts if part in {".secrets", ".state"}), None)
    return Path(*folder.parts[: folder.parts.index(inner)]) if inner else folder


def identify(checkout: Checkout) -> Checkout:
    """Give the checkout a card of its own, and tell who it is now: one that was copied becomes another."""
    identity = checkout.identity if checkout.identity and checkout.original is None else str(uuid.uuid4())
    card = json.dumps({"identity": identity, "folder": str(checkout.keys)}) + "\n"
    path = checkout.keys / _CARD
    if not path.exists() or path.read_text(encoding="utf-8") != card:
        checkout.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        temporary.write_text(card, encoding="utf-8")
        temporary.rename(path)
    return Checkout(checkout.keys, checkout.state, identity)
