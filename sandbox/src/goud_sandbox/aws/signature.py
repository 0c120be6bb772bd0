"""Signature Version 4, checked: a known key, its secret, and nothing changed on the way.

moto checks policies, but not the signatures of services that speak REST.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from moto.iam.access_control import CreateAccessKeyFailure, IAMRequestBase, create_access_key
from moto.sts.models import sts_backends

from goud_sandbox.aws.context import ACCOUNT

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

ALGORITHM = "AWS4-HMAC-SHA256"
TOKEN = "X-Amz-Security-Token"  # noqa: S105 -- a header's name


class Refusal(Exception):
    """Why a call is not let in: ``key``, ``token``, ``expired`` or ``signature``."""


def verify(environ: WSGIEnvironment, body: bytes) -> None:
    """Let the call in, or raise ``Refused``."""
    fields = dict(
        part.strip().partition("=")[::2]
        for part in environ.get("HTTP_AUTHORIZATION", "").removeprefix(ALGORITHM).split(",")
    )
    scope = fields.get("Credential", "").split("/")
    if len(scope) != 5:
        raise Refusal("key")
    digest = _signature(_secret(environ, scope[0]), environ, scope[1:], fields.get("SignedHeaders", ""), body)
    if not hmac.compare_digest(digest, fields.get("Signature", "")):
        raise Refusal("signature")


def _secret(environ: WSGIEnvironment, key: str) -> str:
    token = environ.get("HTTP_X_AMZ_SECURITY_TOKEN")
    try:
        access_key = create_access_key(ACCOUNT, "aws", key, {TOKEN: token} if token else {})
    except CreateAccessKeyFailure as error:
        raise Refusal("token" if error.reason == "InvalidToken" else "key") from error
    session = sts_backends[ACCOUNT]["aws"].get_assumed_role_from_access_key(key)
    # By the host's clock, which is the machines', too: they renew by what they were told.
    if session is not None and session.expiration < datetime.now(UTC).replace(tzinfo=None):
        raise Refusal("expired")
    return str(access_key.create_credentials().secret_key)


def _signature(secret: str, environ: WSGIEnvironment, scope: list[str], header_names: str, body: bytes) -> str:
    canonical = "\n".join(
        [
            environ["REQUEST_METHOD"],
            *_location(environ, scope[2]),
            *(f"{name}:{_header(environ, name)}" for name in header_names.split(";")),
            "",
            header_names,
            environ.get("HTTP_X_AMZ_CONTENT_SHA256") or hashlib.sha256(body).hexdigest(),
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join([ALGORITHM, environ.get("HTTP_X_AMZ_DATE", ""), "/".join(scope), digest])
    key = f"AWS4{secret}".encode()
    for part in scope:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _location(environ: WSGIEnvironment, service: str) -> tuple[str, str]:
    """Path and query as the client signed them: S3 signs the path as it is sent, the others encode it once more."""
    url = urlsplit(environ.get("RAW_URI") or environ["PATH_INFO"])
    path = url.path or "/"
    pairs = [part.partition("=")[::2] for part in url.query.split("&") if part]
    query = "&".join(f"{name}={value}" for name, value in sorted(pairs))
    return (path if service == "s3" else quote(path, safe="/~")), query


def _header(environ: WSGIEnvironment, name: str) -> str:
    key = name.upper().replace("-", "_")
    value = environ.get(key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}", "")
    return " ".join(str(value).split())


def install() -> None:
    """Leave the policies to moto, and the signatures to this."""
    type.__setattr__(IAMRequestBase, "check_signature", lambda _: None)
