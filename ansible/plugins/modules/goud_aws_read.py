"""Read resources of Amazon's cloud, several in one call, as the amazon.aws modules identify themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule

DOCUMENTATION = r"""
module: goud_aws_read
short_description: Read resources of Amazon's cloud, several in one call
description:
  - One call instead of one C(*_info) module per kind, in one process. Reads only, also in check mode.
  - Credentials and region come from the environment, as the modules of C(amazon.aws) take them.
options:
  calls:
    description: >-
      Name to C(service), C(call) (as boto3 names it), C(arguments) and C(key), the part of the answer that is wanted. A
      list is read to its last page, of the content of an object the first 64 KiB as text. What does not exist is null.
    type: dict
    required: true
extends_documentation_fragment: [amazon.aws.common.modules, amazon.aws.region.modules, amazon.aws.boto3]
author: [Goud Chain]
"""

EXAMPLES = r"""
- name: Read the volumes
  goud_aws_read:
    calls:
      volumes: {service: ec2, call: describe_volumes, key: Volumes}
  register: reading
"""

RETURN = r"""
found: {description: "Name to what was found, as boto3 gives it; times as text.", returned: always, type: dict}
"""

MOST_CONTENT = 65536
ABSENT = ("NoSuch", "NotFound", "ResourceNotFoundException", "404", "ServerSideEncryptionConfigurationNotFoundError")
ADVICE = {
    "AuthFailure": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "InvalidClientTokenId": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "ExpiredToken": "renew the session (AWS_SESSION_TOKEN)",
    "RequestExpired": "renew the session (AWS_SESSION_TOKEN), or set this machine's clock",
    "UnauthorizedOperation": "the account may not do this: see docs/runbooks/provision.md for what it needs",
    "AccessDenied": "the account may not do this: see docs/runbooks/provision.md for what it needs",
}


def absent(code: str) -> bool:
    """Whether an error says no more than that the resource does not exist."""
    return any(word in code for word in ABSENT)


def sentence(call: str, code: str, message: str) -> str:
    """What an error says, with the next step where one is known."""
    advice = f" {ADVICE[code][0].upper()}{ADVICE[code][1:]}." if code in ADVICE else ""
    return f"Amazon refused {call}: {message.rstrip('.')} ({code}).{advice}"


def read(client: Any, request: Mapping[str, Any]) -> Any:
    """The part of one call's answer that the request names, all pages of it."""
    arguments = request.get("arguments") or {}
    key = request.get("key")
    if key and client.can_paginate(request["call"]):
        items: list[Any] = []
        for page in client.get_paginator(request["call"]).paginate(**arguments):
            items += page.get(key, [])
        return items
    answer = getattr(client, request["call"])(**arguments)
    answer.pop("ResponseMetadata", None)
    value = answer.get(key) if key else answer
    return value.read(MOST_CONTENT).decode(errors="replace") if hasattr(value, "read") else value


def main() -> None:
    """Entry point of the module."""
    module = AnsibleAWSModule(argument_spec={"calls": {"type": "dict", "required": True}}, supports_check_mode=True)
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - the collection told already that it is missing

    clients: dict[str, Any] = {}
    answers: dict[str, Any] = {}
    for name, request in module.params["calls"].items():
        service = request["service"]
        try:
            clients[service] = clients.get(service) or module.client(service)
            answers[name] = read(clients[service], request)
        except ClientError as error:
            details = error.response.get("Error", {})
            code = str(details.get("Code", ""))
            if not absent(code):
                module.fail_json(
                    msg=sentence(f"{service} {request['call']}", code, str(details.get("Message", error))), code=code
                )
            answers[name] = None
        except BotoCoreError as error:
            module.fail_json(
                msg=f"Amazon's API cannot be asked ({error}): set AWS_REGION and credentials, and check the network."
            )
    module.exit_json(changed=False, found=json.loads(json.dumps(answers, default=str)))


if __name__ == "__main__":
    main()
