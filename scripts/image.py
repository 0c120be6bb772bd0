"""Build the project's images: the same inputs give the same image id, and what is there is not built again.

Usage: .venv/bin/python scripts/image.py node|etcd|haproxy [--check] [--rebuild] [--archive] [--wheel FILE]
Prints one JSON line: component, reference, id, built (true also when --check says it would be), seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isal import igzip

from image_inputs import COMPONENTS, EPOCH, ROOT, Component, ImageError, digest, prepare
from image_layers import normalise_image

BASE = "debian:trixie-slim"
_BASE_ABSENT = 3  # exit status of scripts/base-image --check


def docker(*arguments: str, check: bool = True, quiet: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the Docker client; on failure raise ImageError with everything it printed."""
    environment = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    result = subprocess.run(
        ["docker", *arguments],
        check=False,
        text=True,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if not quiet else subprocess.PIPE,
    )
    if check and result.returncode != 0:
        raise ImageError(f"docker {arguments[0]} failed:\n{result.stdout}{result.stderr or ''}")
    return result


def inspect(reference: str) -> dict[str, Any] | None:
    """Return what the engine knows of an image, or None when it has none of that name."""
    result = docker("image", "inspect", reference, check=False)
    if result.returncode != 0:
        if "no such image" in result.stderr.lower():
            return None
        raise ImageError(f"Docker Engine does not answer: {result.stderr.strip()}")
    (image,) = json.loads(result.stdout)
    return dict(image)


def base_layers(*, check: bool) -> list[str] | None:
    """Make sure of the base image and return its layers; None when --check finds that it would have to be made."""
    result = subprocess.run([str(ROOT / "scripts/base-image"), *(["--check"] if check else [])], check=False)
    if result.returncode == _BASE_ABSENT and check:
        return None
    if result.returncode != 0:
        raise ImageError("the base image could not be made (see above)")
    image = inspect(BASE)
    if image is None:
        raise ImageError(f"{BASE} vanished while it was used")
    return [str(layer) for layer in image["RootFS"]["Layers"]]


def build(
    component: Component, reference: str, layers: Sequence[str], inputs: str, *, cache: bool, wheel: Path | None
) -> None:
    """Build, normalise and load one image under `reference`.

    The unnormalised image stays tagged `:cache`, so that the next build reuses its layers.
    """
    work_root = ROOT / ".cache"
    work_root.mkdir(exist_ok=True)
    raw = f"goud-chain/{component.name}:cache"
    with tempfile.TemporaryDirectory(dir=work_root) as scratch:
        context = Path(scratch) / "context"
        context.mkdir()
        prepare(component, context, work_root / "wheels", wheel=wheel)
        options = ["--build-arg", f"BASE={BASE}", "--tag", raw, *([] if cache else ["--no-cache"])]
        docker("build", *options, str(context), quiet=False)
        saved, loadable = Path(scratch) / "saved.tar", Path(scratch) / "loadable.tar"
        docker("save", "--output", str(saved), raw)
        labels = {"io.goud-chain.image": component.name, "io.goud-chain.inputs": inputs}
        normalise_image(saved, loadable, reference=reference, base_layers=layers, labels=labels, epoch=EPOCH)
        saved.unlink()
        docker("load", "--quiet", "--input", str(loadable))
    forget_old_stages()


def forget_old_stages() -> None:
    """Remove what earlier builds left without a name; the newest of each inner stage stays, as the builder's cache."""
    for stage, keep in (("packages", 1), ("own", 1), ("final", 0)):
        filters = ["--filter", "dangling=true", "--filter", f"label=io.goud-chain.stage={stage}"]
        unnamed = list(dict.fromkeys(docker("images", "--quiet", "--no-trunc", *filters).stdout.split()))
        for image in unnamed[keep:]:  # newest first; one that a later stage or a container still uses stays
            docker("rmi", image, check=False)


def make(component: Component, *, check: bool, rebuild: bool, wheel: Path | None = None) -> dict[str, Any]:
    """Build the component's image when it is absent (or when told to); return what was done.

    In check mode nothing is changed, and `built` tells whether a run would build. With `wheel` the image holds the node
    of an earlier release.
    """
    layers = base_layers(check=check)
    inputs = digest(component, layers or [], wheel=wheel)
    reference = f"goud-chain/{component.name}:{inputs[:16]}"
    image = inspect(reference)
    absent = image is None
    if (absent or rebuild) and not check:
        build(component, reference, layers or [], inputs, cache=not rebuild, wheel=wheel)
        image = inspect(reference)
        if image is None:
            raise ImageError(f"the engine loaded no {reference}")
    return {
        "component": component.name,
        "reference": reference,
        "id": image["Id"] if image else None,
        "built": absent or rebuild,
    }


def archive(component: Component) -> dict[str, Any]:
    """Pack the image that `make` made, compressed, for another engine's `docker load`; packed once per image."""
    result = make(component, check=True, rebuild=False)
    if result["id"] is None:
        raise ImageError(f"{result['reference']} is not built yet: run this without --archive first")
    folder = ROOT / ".cache" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{component.name}-{str(result['reference']).split(':')[-1]}.tar.gz"
    if not path.exists():
        for predecessor in folder.glob(f"{component.name}-*"):
            predecessor.unlink()
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            saved, packed = Path(scratch) / "saved.tar", Path(scratch) / "packed.tar.gz"
            docker("save", "--output", str(saved), str(result["reference"]))
            with saved.open("rb") as source, igzip.IGzipFile(packed, "wb", compresslevel=1) as target:
                shutil.copyfileobj(source, target, 1 << 20)
            packed.rename(path)
    return {**result, "archive": str(path)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Build one of the project's images when it is absent.")
    parser.add_argument("component", choices=sorted(COMPONENTS))
    parser.add_argument("--check", action="store_true", help="change nothing; tell what would be built")
    parser.add_argument("--rebuild", action="store_true", help="build from scratch, without any cache")
    parser.add_argument("--archive", action="store_true", help="pack the built image for another engine")
    parser.add_argument(
        "--wheel", type=Path, help="the wheel of an earlier release of the node, in place of the sources"
    )
    options = parser.parse_args(arguments)
    start = time.monotonic()
    try:
        component = COMPONENTS[options.component]
        if options.wheel is not None and (not component.wheels or options.archive):
            parser.error("--wheel is for the image of the node, and not for --archive")
        outcome = (
            archive(component)
            if options.archive
            else make(component, check=options.check, rebuild=options.rebuild, wheel=options.wheel)
        )
    except ImageError as error:
        print(f"image {options.component}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(outcome | {"seconds": round(time.monotonic() - start, 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
