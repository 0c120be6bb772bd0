"""One changing call of Amazon's APIs, for what no module of amazon.aws does, as those modules identify themselves."""

from __future__ import annotations

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule

DOCUMENTATION = r"""
module: goud_aws_call
short_description: Make one changing call of Amazon's APIs
description:
  - >-
    For what no module of C(amazon.aws) does: remove a recovery point of AWS Backup, grow a volume and tell why EBS
    refused. The caller has read the state before and calls only when something differs.
  - In check mode nothing is called, and the task is changed.
options:
  service: {description: The service., type: str, required: true}
  call: {description: The call as boto3 names it., type: str, required: true}
  arguments: {description: What is handed over., type: dict, default: {}}
extends_documentation_fragment: [amazon.aws.common.modules, amazon.aws.region.modules, amazon.aws.boto3]
author: [Goud Chain]
"""

EXAMPLES = r"""
- name: Remove a recovery point
  goud_aws_call:
    service: backup
    call: delete_recovery_point
    arguments: {BackupVaultName: goud, RecoveryPointArn: "arn:aws:ec2:eu-west-1::snapshot/snap-0123456789abcdef0"}
"""

RETURN = r""" # """


def main() -> None:
    """Entry point of the module."""
    module = AnsibleAWSModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "call": {"type": "str", "required": True},
            "arguments": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - the collection told already that it is missing

    if module.check_mode:
        module.exit_json(changed=True)
    service, call = module.params["service"], module.params["call"]
    try:
        getattr(module.client(service), call)(**module.params["arguments"])
    except ClientError as error:
        details = error.response.get("Error", {})
        code, message = str(details.get("Code", "")), str(details.get("Message", error)).rstrip(".")
        module.fail_json(msg=f"Amazon refused {service} {call}: {message} ({code}).", code=code)
    except BotoCoreError as error:
        module.fail_json(
            msg=f"Amazon's API cannot be asked ({error}): set AWS_REGION and credentials, and check the network."
        )
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
