"""Google's REST APIs on one session: pages, operations, and refusals as sentences."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
POLL_SECONDS = 0.5
ADVICE = {
    401: "the credentials are not valid (any more): set GCP_AUTH_KIND and what it needs, such as GCP_ACCESS_TOKEN",
    403: "the account may not do this, or a quota is used up",
}


class Refused(Exception):
    """Google's answer is not what was asked for; the text says why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Answer(Protocol):
    """The part of a response that is used here."""

    status_code: int
    text: str

    def json(self) -> Any:
        """The decoded body."""


class Session(Protocol):
    """The part of google.auth's session that is used here."""

    def request(self, method: str, url: str, **more: Any) -> Answer:
        """One call."""


def sentence(method: str, url: str, status: int, document: Any) -> str:
    """What an error answer says, with the next step where one is known."""
    error = document.get("error", {}) if isinstance(document, Mapping) else {}
    message = error.get("message") if isinstance(error, Mapping) else str(error)
    reasons = {str(entry.get("reason")) for entry in error.get("errors", [])} if isinstance(error, Mapping) else set()
    what = url.split("//", 1)[-1].split("?", 1)[0].split("/", 1)[-1]
    text = str(message or f"no reason was given (HTTP {status})").rstrip(".")
    advice = f". {ADVICE[status]}" if status in ADVICE and "quota" not in text.lower() else ""
    if "quotaExceeded" in reasons or "quota" in text.lower():
        advice = ". Ask for a larger quota in the console (IAM & Admin, Quotas), or ask for less"
    return f"Google refused {method} {what}: {text}{advice}."


def call(
    session: Session, method: str, url: str, body: Any = None, *, absent: bool = False, **more: Any
) -> dict[str, Any] | None:
    """One call; its document, or None for what does not exist when `absent` is a fine answer. Raises Refused."""
    answer = session.request(method, url, json=body, timeout=60, **more)
    if answer.status_code == 404 and absent:
        return None
    try:
        document = answer.json() if answer.text else {}
    except ValueError:
        document = {"error": {"message": answer.text[:200]}}
    if answer.status_code >= 400:
        raise Refused(answer.status_code, sentence(method, url, answer.status_code, document))
    content: dict[str, Any] = document
    return content


def pages(session: Session, url: str) -> Any:
    """A resource, or a list with all its pages (of `aggregated` ones, too) as one list; None where nothing exists."""
    items: list[Any] = []
    token: str | None = None
    while True:
        document = call(session, "GET", url, absent=True, params={"pageToken": token} if token else None)
        if document is None or not is_list(document):
            return document
        items += listed(document)
        token = document.get("nextPageToken")
        if not token:
            return items


def is_list(document: Mapping[str, Any]) -> bool:
    """Whether a document is a list of resources: it says so, or it is one of the older kind."""
    kind = str(document.get("kind", ""))
    return kind.endswith(("List", "buckets", "objects", "ListResponse")) or "nextPageToken" in document


def listed(document: Mapping[str, Any]) -> list[Any]:
    """The resources of one page. Google leaves `items` out when there are none.

    A listing with a delimiter has `prefixes`, too: they stand for the objects below them.
    """
    items = document.get("items", [])
    if isinstance(items, Mapping):
        return [
            resource
            for place in items.values()
            for key, group in place.items()
            if key != "warning"
            for resource in group
        ]
    return [*items, *({"name": prefix} for prefix in document.get("prefixes", []))]


def finish(session: Session, operation: Mapping[str, Any], seconds: float) -> None:
    """Wait for an operation; raises Refused with its error, or when it takes too long."""
    deadline = time.monotonic() + seconds
    current: Mapping[str, Any] = operation
    while current.get("status") != "DONE":
        if time.monotonic() > deadline:
            what = f"{current.get('operationType')} of {str(current.get('targetLink')).rsplit('/', 1)[-1]}"
            raise Refused(
                0, f"{what} was not done after {seconds:.0f} s: look at {current.get('name')} in the console."
            )
        time.sleep(POLL_SECONDS)
        current = call(session, "GET", str(operation["selfLink"])) or {}
    if current.get("error"):
        fail_of(current)


def fail_of(operation: Mapping[str, Any]) -> NoReturn:
    """Raise what a failed operation says."""
    texts = [str(error.get("message", error.get("code"))) for error in operation["error"].get("errors", [])]
    target = str(operation.get("targetLink")).rsplit("/", 1)[-1]
    reason = "; ".join(texts) or "no reason was given"
    advice = " Ask for a larger quota in the console, or ask for less." if "quota" in reason.lower() else ""
    raise Refused(
        int(operation.get("httpErrorStatusCode", 0)),
        f"Google failed {operation.get('operationType')} of {target}: {reason.rstrip('.')}.{advice}",
    )
