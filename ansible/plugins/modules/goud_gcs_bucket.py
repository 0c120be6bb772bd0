"""A bucket of Cloud Storage with all its protections from its first moment, and who may do what in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.module_utils.goud_google import PLATFORM, Refused, Session, call
from ansible_collections.google.cloud.plugins.module_utils.gcp_utils import GcpModule, GcpSession

DOCUMENTATION = r"""
module: goud_gcs_bucket
short_description: A protected bucket of Cloud Storage and its policy
description:
  - >-
    C(google.cloud.gcp_storage_bucket) knows neither uniform access nor public access prevention, retention or policies;
    a bucket made by it would be open to object ACLs until somebody closes it. Check mode and diff are supported.
  - A locked retention cannot be undone by anybody; it is locked only when C(retention_locked) says so.
options:
  name: {description: The bucket's name; unique in the world., type: str, required: true}
  location: {description: Region or multi-region., type: str, required: true}
  storage_class: {description: Storage class., type: str, default: STANDARD}
  labels: {description: Labels., type: dict, default: {}}
  lifecycle_rules: {description: Rules as the API writes them., type: list, elements: dict, default: []}
  retention_days: {description: Days in which no object can be changed or deleted; 0 is none., type: int, default: 0}
  retention_locked: {description: Whether the retention is locked for good., type: bool, default: false}
  soft_delete_days: {description: Days for which what was deleted for good is kept; 0 is none., type: int, default: 7}
  kms_key: {description: Key that encrypts; empty is Google's own., type: str, default: ""}
  grants:
    description: >-
      What the named members may do. They lose other roles on this bucket; members that are not named are left alone.
    type: list
    elements: dict
    default: []
    suboptions:
      member: {description: The member., type: str, required: true}
      role: {description: The role., type: str, required: true}
      condition: {description: "Where it holds: C(title), C(description), C(expression).", type: dict}
author: [Goud Chain]
"""

EXAMPLES = r"""
- name: Make the bucket for backups
  goud_gcs_bucket:
    name: mine-goud-backups
    location: europe-west4
    grants: [{member: "serviceAccount:a@b", role: roles/storage.objectViewer}]
"""

RETURN = r"""
bucket: {description: The bucket as the API has it; empty in check mode while it does not exist., type: dict}
differences: {description: Names of the settings that differed., returned: always, type: list}
"""

API = "https://storage.googleapis.com/storage/v1/b"
DAY = 86400


def bucket_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, as the API writes them."""
    settings: dict[str, Any] = {
        "storageClass": parameters["storage_class"],
        "labels": dict(parameters["labels"]),
        "versioning": {"enabled": True},
        "iamConfiguration": {
            "uniformBucketLevelAccess": {"enabled": True},
            "publicAccessPrevention": "enforced",
        },
        "lifecycle": {"rule": list(parameters["lifecycle_rules"])},
        "softDeletePolicy": {"retentionDurationSeconds": str(parameters["soft_delete_days"] * DAY)},
    }
    if parameters["retention_days"]:
        settings["retentionPolicy"] = {"retentionPeriod": str(parameters["retention_days"] * DAY)}
    if parameters["kms_key"]:
        settings["encryption"] = {"defaultKmsKeyName": parameters["kms_key"]}
    return settings


def differences(settings: Any, content: Any, path: str = "") -> list[str]:
    """Dotted names of the settings that differ."""
    if isinstance(settings, Mapping):
        fields = content if isinstance(content, Mapping) else {}
        return [
            name
            for key, value in settings.items()
            for name in differences(value, fields.get(key), f"{path}.{key}".strip("."))
        ]
    if settings == content or (not settings and not content) or str(settings) == str(content):
        return []
    return [path]


def policy_with(policy: Mapping[str, Any], grants: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The bindings in which each named member has exactly its roles."""
    grantees = {grant["member"] for grant in grants}
    bindings = []
    for binding in policy.get("bindings", []):
        members = [member for member in binding.get("members", []) if member not in grantees]
        bindings.append({**binding, "members": members})
    for grant in grants:
        place = {"role": grant["role"]} | ({"condition": grant["condition"]} if grant.get("condition") else {})
        home = next((binding for binding in bindings if _place(binding) == _place(place)), None)
        if home is None:
            home = {**place, "members": []}
            bindings.append(home)
        home["members"].append(grant["member"])
    return [{**binding, "members": sorted(binding["members"])} for binding in bindings if binding["members"]]


def _place(binding: Mapping[str, Any]) -> tuple[str, str]:
    """What tells two bindings apart: the role, and where it holds."""
    return str(binding["role"]), json.dumps(binding.get("condition") or {}, sort_keys=True)


def normal(bindings: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Bindings without their order."""
    return sorted((*_place(binding), member) for binding in bindings for member in binding["members"])


def settle(session: Session, parameters: Mapping[str, Any], project: str, *, check: bool) -> dict[str, Any]:
    """Make bucket and policy as asked; with `check` only name the changes. Raises Refused."""
    name = parameters["name"]
    bucket = call(session, "GET", f"{API}/{name}", absent=True)
    settings = bucket_settings(parameters)
    changes = ["bucket"] if bucket is None else differences(settings, bucket)
    if bucket is not None and str(bucket["location"]).upper() != parameters["location"].upper():
        raise Refused(
            0,
            f"the bucket {name} is in {bucket['location']}, not in {parameters['location']}: a bucket cannot move. "
            "Name another bucket (cloud_bucket_name), or its own location.",
        )
    if changes and not check:
        if bucket is None:
            body = {"name": name, "location": parameters["location"].upper(), **settings}
            bucket = call(session, "POST", f"{API}?project={project}", body) or {}
        else:
            bucket = call(session, "PATCH", f"{API}/{name}", settings) or {}
    changes += _lock(session, parameters, bucket, check=check)
    changes += _grant(session, parameters, bucket, check=check)
    return {"changed": bool(changes), "differences": changes, "bucket": bucket or {}}


def _lock(
    session: Session, parameters: Mapping[str, Any], bucket: Mapping[str, Any] | None, *, check: bool
) -> list[str]:
    if not (parameters["retention_locked"] and parameters["retention_days"]):
        return []
    if bucket and (bucket.get("retentionPolicy") or {}).get("isLocked"):
        return []
    if bucket and not check:
        generation = bucket["metageneration"]
        call(session, "POST", f"{API}/{parameters['name']}/lockRetentionPolicy?ifMetagenerationMatch={generation}")
    return ["retentionPolicy.isLocked"]


def _grant(
    session: Session, parameters: Mapping[str, Any], bucket: Mapping[str, Any] | None, *, check: bool
) -> list[str]:
    if not parameters["grants"]:
        return []
    if not bucket:
        return ["policy"]
    url = f"{API}/{parameters['name']}/iam?optionsRequestedPolicyVersion=3"
    policy = call(session, "GET", url) or {}
    bindings = policy_with(policy, parameters["grants"])
    if normal(bindings) == normal(policy.get("bindings", [])):
        return []
    if not check:
        # The etag makes it fail when somebody else changed the policy meanwhile.
        version = 3 if any(binding.get("condition") for binding in bindings) else policy.get("version", 1)
        body = {"version": version, "etag": policy.get("etag"), "bindings": bindings}
        call(session, "PUT", f"{API}/{parameters['name']}/iam", body)
    return ["policy"]


def main() -> None:
    """Entry point of the module."""
    text = {"type": "str", "required": True}
    grant = {"member": text, "role": text, "condition": {"type": "dict"}}
    module = GcpModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "location": {"type": "str", "required": True},
            "storage_class": {"type": "str", "default": "STANDARD"},
            "labels": {"type": "dict", "default": {}},
            "lifecycle_rules": {"type": "list", "elements": "dict", "default": []},
            "retention_days": {"type": "int", "default": 0},
            "retention_locked": {"type": "bool", "default": False},
            "soft_delete_days": {"type": "int", "default": 7},
            "kms_key": {"type": "str", "default": "", "no_log": False},
            "grants": {"type": "list", "elements": "dict", "default": [], "options": grant},
        },
        supports_check_mode=True,
    )
    module.params["scopes"] = module.params["scopes"] or [PLATFORM]
    try:
        session = GcpSession(module, "goud").session()
        result = settle(session, module.params, module.params["project"], check=module.check_mode)
    except Refused as error:
        module.fail_json(msg=str(error), status=error.status)
    except OSError as error:  # requests' own errors are OSErrors
        module.fail_json(msg=f"Google's API does not answer ({error}): check the network and HTTPS_PROXY.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
