"""One changing call of Google Cloud's REST API, for what no google.cloud module does; awaits its operation."""

from __future__ import annotations

from ansible.module_utils.goud_google import PLATFORM, Refused, call, finish
from ansible_collections.google.cloud.plugins.module_utils.gcp_utils import GcpModule, GcpSession

DOCUMENTATION = r"""
module: goud_gcp_call
short_description: Make one changing call of Google Cloud's REST API
description:
  - >-
    For what no module of C(google.cloud) does: attach a disk under a device name, put a disk under a schedule,
    resize it and look at the answer. The caller has read the state before and calls only when something differs.
  - In check mode nothing is called, and the task is changed.
options:
  method: {description: HTTP method., type: str, choices: [POST, PUT, PATCH, DELETE], default: POST}
  url: {description: The address., type: str, required: true}
  body: {description: The document to send., type: dict}
  timeout: {description: Seconds to wait for the operation., type: int, default: 300}
author: [Goud Chain]
"""

EXAMPLES = r"""
- name: Resize the disk
  goud_gcp_call:
    url: https://compute.googleapis.com/compute/v1/projects/mine/zones/europe-west4-a/disks/data/resize
    body: {sizeGb: "20"}
"""

RETURN = r"""
answer: {description: The API's answer., returned: when called, type: dict}
"""


def main() -> None:
    """Entry point of the module."""
    module = GcpModule(
        argument_spec={
            "method": {"type": "str", "choices": ["POST", "PUT", "PATCH", "DELETE"], "default": "POST"},
            "url": {"type": "str", "required": True},
            "body": {"type": "dict"},
            "timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=True)
    module.params["scopes"] = module.params["scopes"] or [PLATFORM]
    try:
        session = GcpSession(module, "goud").session()
        answer = call(session, module.params["method"], module.params["url"], module.params["body"]) or {}
        if str(answer.get("kind", "")).endswith("#operation"):
            finish(session, answer, module.params["timeout"])
    except Refused as error:
        module.fail_json(msg=str(error), status=error.status)
    except OSError as error:  # requests' own errors are OSErrors
        module.fail_json(msg=f"Google's API does not answer ({error}): check the network and HTTPS_PROXY.")
    module.exit_json(changed=True, answer=answer)


if __name__ == "__main__":
    main()
