"""What playbooks need to know of files on the controller: their text, a key's public half, a chain's identity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

from goud_node.chain import genesis
from goud_node.chain.keys import SigningKey
from goud_node.errors import GoudError


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


class FilterModule:
    """Registers the filters above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"goud_file": goud_file, "goud_public_key": goud_public_key, "goud_chain_id": goud_chain_id}
