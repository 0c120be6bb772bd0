"""IAM conditions: the few expressions of Google's language that buckets' policies here are written in.

``resource.name.startsWith('…')``, ``resource.name.endsWith('…')``, ``resource.name == '…'``, ``!=`` and
``resource.type == '…'``, joined by ``&&`` and ``||`` (which binds less); no parentheses.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from goud_sandbox.documents import Document
from goud_sandbox.gcp.errors import ApiError

LITERAL = r"(?:'(?P<single>[^'\\]*)'|\"(?P<double>[^\"\\]*)\")"
CALL = re.compile(rf"\s*resource\.name\.(?P<method>startsWith|endsWith)\(\s*{LITERAL}\s*\)\s*")
COMPARE = re.compile(rf"\s*resource\.(?P<field>name|type)\s*(?P<operator>==|!=)\s*{LITERAL}\s*")
OBJECT, BUCKET = "storage.googleapis.com/Object", "storage.googleapis.com/Bucket"
Test = Callable[[str], bool]  # of a resource's full name


def bucket_name(bucket: str) -> str:
    """A bucket's full name in conditions."""
    return f"projects/_/buckets/{bucket}"


def object_name(bucket: str, name: str) -> str:
    """An object's full name in conditions."""
    return f"{bucket_name(bucket)}/objects/{name}"


def holds(condition: Document | None, resource: str) -> bool:
    """Whether the condition lets its binding apply to the resource; no condition always does."""
    return condition is None or predicate(str(condition.get("expression", "")))(resource)


def predicate(expression: str) -> Test:
    """The expression as a function; 400 for what is not understood: a condition that is guessed protects nothing."""
    alternatives = [[_term(term, expression) for term in part.split("&&")] for part in expression.split("||")]
    return lambda resource: any(all(term(resource) for term in part) for part in alternatives)


def _term(text: str, expression: str) -> Test:
    call, compare = CALL.fullmatch(text), COMPARE.fullmatch(text)
    if call:
        method, value = call["method"], call["single"] or call["double"] or ""
        return lambda resource: resource.startswith(value) if method == "startsWith" else resource.endswith(value)
    if compare:
        field, equal, value = compare["field"], compare["operator"] == "==", compare["single"] or compare["double"]
        return lambda resource: ((_kind(resource) if field == "type" else resource) == (value or "")) is equal
    raise ApiError(
        400, "invalid", f"The sandbox does not understand the condition {expression!r} (at {text.strip()!r})."
    )


def _kind(resource: str) -> str:
    return OBJECT if "/objects/" in resource else BUCKET


def check(policy: Document, *, uniform: bool) -> None:
    """400 for a policy whose conditions Google would refuse."""
    conditions = [binding["condition"] for binding in policy.get("bindings", []) if binding.get("condition")]
    for condition in conditions:
        predicate(str(condition.get("expression", "")))
        if not condition.get("title"):
            raise ApiError(400, "invalid", "A condition must have a title.")
    if conditions and int(policy.get("version") or 1) != 3:
        raise ApiError(400, "invalid", "Conditions need a policy of version 3.")
    if conditions and not uniform:
        raise ApiError(400, "invalid", "Conditions need a bucket with uniform bucket-level access.")


def view(policy: Document, version: int) -> Document:
    """The policy for a caller who knows that version: before 3, conditions show only as a role that nobody has."""
    if version >= 3 or not any(binding.get("condition") for binding in policy["bindings"]):
        return policy
    bindings = [
        {"role": f"{binding['role']}_withcond_{_digest(binding['condition'])}", "members": binding["members"]}
        if binding.get("condition")
        else binding
        for binding in policy["bindings"]
    ]
    return policy | {"version": 1, "bindings": bindings}


def _digest(condition: Document) -> str:
    return hashlib.sha256(str(condition.get("expression")).encode()).hexdigest()[:20]
