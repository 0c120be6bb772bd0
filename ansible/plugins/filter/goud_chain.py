"""What playbooks need to know of files on the controller: text, a key's public half, a chain's identity, images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

from goud_node.chain import genesis
from goud_node.chain.keys import SigningKey
from goud_node.errors import GoudError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))
import goud_owner


def goud_file(path: str, placeholder: str) -> str:
    """The text of a file on the controller, or `placeholder` while it does not exist (check mode from a bare state)."""
    file = Path(path)
    if not file.exists():
        return placeholder
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AnsibleFilterError(f"cannot read {path}: {error}") from error


def goud_public_key(path: str, placeholder: str) -> str:
    """The public half (64 hex digits) of a node's private key file, or `placeholder` while it does not exist."""
    file = Path(path)
    if not file.exists():
        return placeholder
    try:
        return SigningKey.load(file).public.hex()
    except GoudError as error:
        raise AnsibleFilterError(str(error)) from error


def goud_chain_id(path: str) -> str:
    """The chain id that a genesis document gives, or an empty text while there is no document."""
    file = Path(path)
    if not file.exists():
        return ""
    try:
        return genesis.load(file).chain_id
    except GoudError as error:
        raise AnsibleFilterError(str(error)) from error


def goud_other_images(reading: Mapping[str, Any], cluster: str) -> dict[str, list[str]]:
    """Images that other clusters on an engine (as docker_host_info reads it) start with; `silent`: those unknown."""
    images, silent = goud_owner.other_images(cluster, reading["containers"], reading["volumes"])
    return {"images": sorted(images), "silent": silent}


def goud_names(value: object) -> list[str]:
    """Names that were asked for, each once: of a list, or of a text as the command line gives it (`node1,node2`)."""
    names = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    return list(dict.fromkeys(name for name in (str(entry).strip() for entry in names) if name))


class FilterModule:
    """Registers the filters above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        names = (goud_chain_id, goud_file, goud_names, goud_other_images, goud_public_key)
        return {function.__name__: function for function in names}
