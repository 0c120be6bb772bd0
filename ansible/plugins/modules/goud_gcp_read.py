"""Read resources of Google Cloud by their REST addresses, several in one call."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.goud_google import PLATFORM, Refused, pages
from ansible_collections.google.cloud.plugins.module_utils.gcp_utils import GcpModule, GcpSession

DOCUMENTATION = r"""
module: goud_gcp_read
short_description: Read resources of Google Cloud, several in one call
description:
  - One call instead of one C(*_info) module per kind and zone, over one connection. Reads only, also in check mode.
  - Credentials come from the environment, as the modules of C(google.cloud) take them.
options:
  urls:
    description: Name to address. A list is read to its last page; a part that is left empty is not read.
    type: dict
    required: true
  required:
    description: Names whose absence is not an answer yet (for C(until)).
    type: list
    elements: str
    default: []
author: [Goud Chain]
"""

EXAMPLES = r"""
- name: Read the disks
  goud_gcp_read:
    urls:
      disks: https://compute.googleapis.com/compute/v1/projects/mine/aggregated/disks?filter=labels.goud_cluster=goud
  register: reading
"""

RETURN = r"""
found:
  description: "Name to what was found: a resource, a list of them, or null."
  returned: always
  type: dict
missing:
  description: Names of C(required) that do not exist.
  returned: always
  type: list
"""


def main() -> None:
    """Entry point of the module."""
    module = GcpModule(
        argument_spec={
            "urls": {"type": "dict", "required": True},
            "required": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    module.params["scopes"] = module.params["scopes"] or [PLATFORM]
    try:
        session = GcpSession(module, "goud").session()
        resources: dict[str, Any] = {
            name: pages(session, url) if url else None for name, url in module.params["urls"].items()
        }
    except Refused as error:
        module.fail_json(msg=str(error), status=error.status)
    except OSError as error:  # requests' own errors are OSErrors
        module.fail_json(msg=f"Google's API does not answer ({error}): check the network and HTTPS_PROXY.")
    missing = [name for name in module.params["required"] if not resources.get(name)]
    module.exit_json(changed=False, found=resources, missing=missing)


if __name__ == "__main__":
    main()
