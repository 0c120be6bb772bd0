"""What Google offers and nobody creates: regions, zones, machine types, disk types, images."""

from __future__ import annotations

import re

from goud_sandbox.documents import Document
from goud_sandbox.gcp.errors import not_found

ROOT = "https://www.googleapis.com/compute/v1/"
REGIONS: dict[str, str] = {
    "europe-north1": "abc",
    "europe-west1": "bcd",
    "europe-west3": "abc",
    "europe-west4": "abc",
    "us-central1": "abcf",
    "us-east1": "bcd",
    "us-west1": "abc",
}
SHARED_CORE = {"e2-micro": (2, 1024), "e2-small": (2, 2048), "e2-medium": (2, 4096), "f1-micro": (1, 614)}
MEMORY_MB_PER_CPU = {"standard": 4096, "highmem": 8192, "highcpu": 1024}
MACHINE_TYPE = re.compile(r"(e2|n1|n2|n2d|n4|c2|c3|c4|t2d)-(standard|highmem|highcpu)-(\d+)")
DISK_TYPES = ("pd-standard", "pd-balanced", "pd-ssd", "pd-extreme", "hyperdisk-balanced")
SSD_TYPES = ("pd-balanced", "pd-ssd", "pd-extreme", "hyperdisk-balanced")
# One image: the machines are containers of Debian 13, and saying anything else would be a lie.
IMAGE_PROJECT, IMAGE_FAMILY, IMAGE_NAME = "debian-cloud", "debian-13", "debian-13-trixie-v20251014"
IMAGE_GB = 10


def zones() -> list[str]:
    """Every zone of every region."""
    return [f"{region}-{letter}" for region, letters in REGIONS.items() for letter in letters]


def zone(project: str, name: str) -> Document:
    """One zone; 404 when there is none."""
    if name not in zones():
        raise not_found(f"projects/{project}/zones/{name}")
    region = name.rsplit("-", 1)[0]
    return {
        "kind": "compute#zone",
        "id": str(2000 + zones().index(name)),
        "name": name,
        "status": "UP",
        "region": f"{ROOT}projects/{project}/regions/{region}",
        "selfLink": f"{ROOT}projects/{project}/zones/{name}",
    }


def region(project: str, name: str, usage: list[Document]) -> Document:
    """One region with its quotas; 404 when there is none."""
    if name not in REGIONS:
        raise not_found(f"projects/{project}/regions/{name}")
    return {
        "kind": "compute#region",
        "id": str(1000 + list(REGIONS).index(name)),
        "name": name,
        "status": "UP",
        "zones": [f"{ROOT}projects/{project}/zones/{name}-{letter}" for letter in REGIONS[name]],
        "quotas": usage,
        "selfLink": f"{ROOT}projects/{project}/regions/{name}",
    }


def size(machine_type: str) -> tuple[int, int] | None:
    """Virtual CPUs and memory in MiB; None for a type nobody sells."""
    if machine_type in SHARED_CORE:
        return SHARED_CORE[machine_type]
    match = MACHINE_TYPE.fullmatch(machine_type)
    if not match or not 1 <= int(match.group(3)) <= 128:
        return None
    cpus = int(match.group(3))
    return cpus, cpus * MEMORY_MB_PER_CPU[match.group(2)]


def machine_type(project: str, place: str, name: str) -> Document:
    """One machine type; 404 when there is none."""
    shape = size(name)
    if shape is None:
        raise not_found(f"projects/{project}/zones/{place}/machineTypes/{name}")
    return {
        "kind": "compute#machineType",
        "id": str(3000 + sum(name.encode())),
        "name": name,
        "guestCpus": shape[0],
        "memoryMb": shape[1],
        "zone": place,
        "selfLink": f"{ROOT}projects/{project}/zones/{place}/machineTypes/{name}",
    }


def machine_types(project: str, place: str) -> list[Document]:
    """The common ones."""
    names = [*SHARED_CORE, *(f"{family}-standard-{n}" for family in ("e2", "n2", "n2d") for n in (2, 4, 8, 16))]
    return [machine_type(project, place, name) for name in names]


def disk_type(project: str, place: str, name: str) -> Document:
    """One disk type; 404 when there is none."""
    if name not in DISK_TYPES:
        raise not_found(f"projects/{project}/zones/{place}/diskTypes/{name}")
    return {
        "kind": "compute#diskType",
        "id": str(4000 + DISK_TYPES.index(name)),
        "name": name,
        "zone": f"{ROOT}projects/{project}/zones/{place}",
        "defaultDiskSizeGb": "100",
        "selfLink": f"{ROOT}projects/{project}/zones/{place}/diskTypes/{name}",
    }


def image() -> Document:
    """The one public image."""
    return {
        "kind": "compute#image",
        "id": "5000",
        "name": IMAGE_NAME,
        "family": IMAGE_FAMILY,
        "status": "READY",
        "architecture": "X86_64",
        "diskSizeGb": str(IMAGE_GB),
        "selfLink": f"{ROOT}projects/{IMAGE_PROJECT}/global/images/{IMAGE_NAME}",
    }


def find_image(link: str) -> Document:
    """The image of a link to a name or to a family; 404 when it is not ours."""
    tail = link.rsplit("/compute/v1/", maxsplit=1)[-1].strip("/")
    links = {
        f"projects/{IMAGE_PROJECT}/global/images/{IMAGE_NAME}",
        f"projects/{IMAGE_PROJECT}/global/images/family/{IMAGE_FAMILY}",
    }
    if tail not in links:
        raise not_found(tail)
    return image()
