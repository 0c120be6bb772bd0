"""Write known_hosts from what the provider tells, and wait until each machine answers with such a key."""

from __future__ import annotations

import base64
import binascii
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: goud_host_keys
short_description: Write known_hosts from what the provider tells, and prove it
description:
  - The file holds the given machines and nothing else; each under its alias, so that a new address needs no new line.
  - Waits until SSH answers at the address with one of the keys. Another key is an error, never a reason to take it.
  - In check mode the file is compared, nobody is asked.
options:
  path: {description: The known_hosts file; its directory must exist., type: path, required: true}
  machines:
    description: The machines.
    type: list
    elements: dict
    required: true
    suboptions:
      alias: {description: Name in the file., type: str, required: true}
      address: {description: Where SSH answers., type: str, required: true}
      keys: {description: "Public host keys, as C(type base64) each.", type: list, elements: str, required: true}
  timeout: {description: Seconds to wait for each machine., type: int, default: 180}
author: [Goud Chain]
"""

EXAMPLES = r"""
- name: Write the host keys
  goud_host_keys:
    path: .secrets/gcp/ssh/known_hosts
    machines: [{alias: goud-gcp-node1, address: 192.0.2.1, keys: ["ssh-ed25519 AAAA..."]}]
"""

RETURN = r"""
waited: {description: Seconds waited for all., returned: always, type: float}
"""

PAUSE_SECONDS = 1.0
SCAN_SECONDS = 5
KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")


class WrongKey(Exception):
    """A machine cannot be trusted or reached; the text says why."""


def cleaned(keys: Sequence[str]) -> list[str]:
    """`type base64` of each key that is one, without comments, sorted."""
    lines = set()
    for text in keys:
        words = text.split()
        if len(words) < 2 or words[0] not in KINDS:
            continue
        try:
            base64.b64decode(words[1], validate=True)
        except binascii.Error:
            continue
        lines.add(f"{words[0]} {words[1]}")
    return sorted(lines)


def document(machines: Sequence[Mapping[str, Any]]) -> str:
    """The text of the file. Raises WrongKey for a machine without keys."""
    lines = []
    for machine in machines:
        keys = cleaned(machine["keys"])
        if not keys:
            raise WrongKey(
                f"the provider tells no usable host key of {machine['alias']}: wait until it has booted, then run again"
            )
        lines += [f"{machine['alias']} {key}" for key in keys]
    return "".join(f"{line}\n" for line in sorted(lines))


def scanned(scan: str, address: str) -> list[str]:
    """The keys that SSH at an address shows now; none while nobody answers."""
    result = subprocess.run(
        [scan, "-T", str(SCAN_SECONDS), "-t", "ed25519,ecdsa,rsa", address], check=False, capture_output=True, text=True
    )
    return cleaned([line.split(" ", 1)[1] for line in result.stdout.splitlines() if line.startswith(f"{address} ")])


def prove(scan: str, machine: Mapping[str, Any], deadline: float) -> None:
    """Wait until the machine answers with a key that the provider told. Raises WrongKey."""
    provider_keys = set(cleaned(machine["keys"]))
    while True:
        host_keys = scanned(scan, machine["address"])
        if provider_keys & set(host_keys):
            return
        if host_keys:
            raise WrongKey(
                f"{machine['alias']} at {machine['address']} shows a host key that the provider does not tell: either "
                "somebody is in between, or its keys were made anew. Nothing was trusted; compare them in the console."
            )
        if time.monotonic() > deadline:
            raise WrongKey(
                f"SSH of {machine['alias']} does not answer at {machine['address']}: is your own address among "
                "cloud_network_ssh_ranges, and does the machine run?"
            )
        time.sleep(PAUSE_SECONDS)


def write(path: Path, text: str) -> None:
    """Replace the file in one step."""
    part = path.with_name(f".{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    part.replace(path)


def main() -> None:
    """Entry point of the module."""
    machine = {
        "alias": {"type": "str", "required": True},
        "address": {"type": "str", "required": True},
        "keys": {"type": "list", "elements": "str", "required": True, "no_log": False},
    }
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "machines": {"type": "list", "elements": "dict", "required": True, "options": machine},
            "timeout": {"type": "int", "default": 180},
        },
        supports_check_mode=True,
    )
    path = Path(module.params["path"])
    scan = module.get_bin_path("ssh-keyscan", required=True)
    start = time.monotonic()
    try:
        text = document(module.params["machines"])
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if not module.check_mode:
            for entry in module.params["machines"]:
                prove(scan, entry, time.monotonic() + module.params["timeout"])
            if text != before:
                write(path, text)
    except (WrongKey, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=text != before,
        waited=round(time.monotonic() - start, 1),
        diff={"before": before, "after": text, "before_header": str(path), "after_header": str(path)},
    )


if __name__ == "__main__":
    main()
