"""Google's error documents: the shapes and reasons its clients look at."""

from __future__ import annotations

from typing import Any

STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
}


class ApiError(Exception):
    """A refusal: HTTP ``status``, Google's ``reason`` and a sentence."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason

    def document(self) -> dict[str, Any]:
        """The body of the answer."""
        return {
            "error": {
                "code": self.status,
                "message": str(self),
                "errors": [{"message": str(self), "domain": "global", "reason": self.reason}],
                "status": STATUS.get(self.status, "UNKNOWN"),
            }
        }


def not_found(key: str) -> ApiError:
    """404 for a resource's key."""
    return ApiError(404, "notFound", f"The resource '{key}' was not found")


def already_exists(key: str) -> ApiError:
    """409 for a resource's key."""
    return ApiError(409, "alreadyExists", f"The resource '{key}' already exists")


def invalid(field: str, value: object, reason: str) -> ApiError:
    """400 for one field."""
    return ApiError(400, "invalid", f"Invalid value for field '{field}': '{value}'. {reason}")


def in_use(kind: str, key: str, holder: str) -> ApiError:
    """400 for deleting or attaching something that another resource holds."""
    return ApiError(
        400, "resourceInUseByAnotherResource", f"The {kind} resource '{key}' is already being used by '{holder}'"
    )


def quota(metric: str, limit: float, region: str) -> ApiError:
    """403 for more than the project may have."""
    return ApiError(403, "quotaExceeded", f"Quota '{metric}' exceeded. Limit: {limit:.1f} in region {region}.")


def stale(subject: str) -> ApiError:
    """412 for a fingerprint that is not the resource's present one."""
    return ApiError(
        412, "conditionNotMet", f"{subject} fingerprint either invalid or resource {subject.lower()} have changed"
    )
