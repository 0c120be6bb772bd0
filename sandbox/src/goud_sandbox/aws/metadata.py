"""Amazon's instance metadata service (IMDS): version 2, and version 1 where the instance lets it.

Credentials are a session of the instance profile's role, made as ``sts:AssumeRole`` makes them: the gateway takes them,
and the role's policies hold.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

from moto.iam.models import InstanceProfile, Role, iam_backends
from moto.sts.models import AssumedRole, sts_backends

from goud_sandbox.aws.context import ACCOUNT
from goud_sandbox.aws.instances import Guest
from goud_sandbox.aws.progress import backends, guests
from goud_sandbox.metadata import Node, Question, Reply, Tree, find, listing

SERVICE = "ec2.amazonaws.com"
TTL, TOKEN = "x-aws-ec2-metadata-token-ttl-seconds", "x-aws-ec2-metadata-token"
LONGEST = 21600
SESSION = timedelta(hours=6)
RENEW = timedelta(hours=1)  # the same credentials are handed out until this long before their end


def _refusal(status: int, text: str) -> Reply:
    return Reply(
        f"<?xml version='1.0'?><html><head><title>{status} - {text}</title></head></html>\n", status, "text/html"
    )


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class Metadata:
    """Answers by the address that asks. ``transaction`` holds the models alone and saves them."""

    def __init__(self, transaction: Callable[[], AbstractContextManager[None]]) -> None:
        self._transaction = transaction
        self._tokens: dict[str, tuple[str, float]] = {}

    def answer(self, question: Question) -> Reply | None:
        """The answer; None when no instance of this provider has the address."""
        guest = _guest(question.machine)
        if guest is None:
            return None
        if guest.metadata_options.http_endpoint == "disabled":
            return _refusal(403, "Forbidden")
        if question.method == "PUT":
            return self._token(guest, question)
        if not self._admits(guest, question.headers.get(TOKEN)):
            return _refusal(401, "Unauthorized")
        return self._reply(guest, question.path)

    def _reply(self, guest: Guest, path: str) -> Reply:
        node = find(self._tree(guest), unquote(path))
        if node is None:
            return _refusal(404, "Not Found")
        if callable(node):
            return node()
        return Reply("\n".join(listing(node)) if isinstance(node, dict) else str(node))

    # sessions of version 2 -------------------------------------------------------------------------------------

    def _token(self, guest: Guest, question: Question) -> Reply:
        if question.path.rstrip("/") != "/latest/api/token":
            return _refusal(405, "Not Allowed")
        if "x-forwarded-for" in question.headers:
            return _refusal(403, "Forbidden")
        ttl = question.headers.get(TTL, "")
        if not ttl.isdigit() or not 1 <= int(ttl) <= LONGEST:
            return _refusal(400, "Bad Request")
        now = time.monotonic()
        self._tokens = {token: entry for token, entry in self._tokens.items() if entry[1] > now}
        token = secrets.token_urlsafe(40)
        self._tokens[token] = guest.id, now + int(ttl)
        return Reply(token, headers={"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": ttl})

    def _admits(self, guest: Guest, token: str | None) -> bool:
        if token is None:
            return bool(guest.metadata_options.http_tokens != "required")
        owner, ends = self._tokens.get(token, ("", 0.0))
        return owner == guest.id and ends > time.monotonic()

    # the tree --------------------------------------------------------------------------------------------------

    def _tree(self, guest: Guest) -> Tree:
        zone = str(guest.placement.zone)
        details: Tree = {
            "ami-id": str(guest.image_id),
            "hostname": str(guest.private_dns_name),
            "instance-id": guest.id,
            "instance-type": str(guest.instance_type),
            "local-hostname": str(guest.private_dns_name),
            "local-ipv4": str(guest.private_ip),
            "placement": {"availability-zone": zone, "region": zone[:-1]},
            "services": {"domain": "amazonaws.com", "partition": "aws"},
        }
        if guest.public_ip:
            details["public-ipv4"] = str(guest.public_ip)
        profile = _profile(guest)
        if profile is not None:
            details["iam"] = self._iam(guest, profile)
        return {
            "latest": {
                "dynamic": {"instance-identity": {"document": lambda: _identity(guest, zone)}},
                "meta-data": details,
            }
        }

    def _iam(self, guest: Guest, profile: InstanceProfile) -> Tree:
        roles: list[Role] = list(profile.roles)
        now = _time(datetime.now(UTC))
        info = {
            "Code": "Success",
            "LastUpdated": now,
            "InstanceProfileArn": profile.arn,
            "InstanceProfileId": profile.id,
        }
        credentials: dict[str, Node] = {role.name: lambda role=role: self._session(guest, role) for role in roles}  # type: ignore[misc] # a default binds it now
        return {"info": lambda: Reply(json.dumps(info, indent=2)), "security-credentials": credentials}

    def _session(self, guest: Guest, role: Role) -> Reply:
        now = datetime.now(UTC)
        if not _trusts(role):
            code, text = "AssumeRoleUnauthorizedAccess", f"EC2 cannot assume the role {role.name}."
            return Reply(json.dumps({"Code": code, "Message": text, "LastUpdated": _time(now)}, indent=2))
        with self._transaction():
            session = _current(guest, role, now) or _new(guest, role, now)
        answer = {
            "Code": "Success",
            "LastUpdated": _time(now),
            "Type": "AWS-HMAC",
            "AccessKeyId": session.access_key_id,
            "SecretAccessKey": session.secret_access_key,
            "Token": session.session_token,
            "Expiration": _time(session.expiration),
        }
        return Reply(json.dumps(answer, indent=2))


def _guest(address: str) -> Guest | None:
    candidates = (guest for backend in backends() for guest in guests(backend) if guest.state in {"pending", "running"})
    return next((guest for guest in candidates if str(guest.private_ip) == address), None)


def _profile(guest: Guest) -> InstanceProfile | None:
    """The instance's profile, as IAM has it now; None for one that was deleted."""
    association = next(
        (entry for backend in backends() for entry in _associations(backend) if entry.instance_id == guest.id), None
    )
    profiles: dict[str, InstanceProfile] = iam_backends[ACCOUNT]["aws"].instance_profiles
    return next(
        (
            profile
            for profile in profiles.values()
            if association and profile.arn == association.iam_instance_profile.arn
        ),
        None,
    )


def _associations(backend: Any) -> list[Any]:
    return list(backend.iam_instance_profile_associations.values())


def _identity(guest: Guest, zone: str) -> Reply:
    document = {
        "accountId": ACCOUNT,
        "architecture": str(guest.architecture),
        "availabilityZone": zone,
        "imageId": str(guest.image_id),
        "instanceId": guest.id,
        "instanceType": str(guest.instance_type),
        "pendingTime": str(guest.launch_time),
        "privateIp": str(guest.private_ip),
        "region": zone[:-1],
        "version": "2017-09-30",
    }
    return Reply(json.dumps(document, indent=2))


def _trusts(role: Role) -> bool:
    """Whether machines may be the role: its trust policy names EC2."""
    document = json.loads(unquote(str(role.assume_role_policy_document or "{}")))
    statements = document.get("Statement") or []
    for statement in [statements] if isinstance(statements, dict) else statements:
        principal = statement.get("Principal") or {}
        services = principal.get("Service", []) if isinstance(principal, dict) else []
        if statement.get("Effect") == "Allow" and SERVICE in ([services] if isinstance(services, str) else services):
            return True
    return False


# moto's sessions -----------------------------------------------------------------------------------------------


def _sessions() -> Any:
    return sts_backends[ACCOUNT]["aws"]


def _current(guest: Guest, role: Role, now: datetime) -> AssumedRole | None:
    """The session that was made last for this machine, while it has some time to go."""
    late = (now + RENEW).replace(tzinfo=None)  # moto's times have no zone
    sessions = (session for session in reversed(_sessions().assumed_roles) if session.session_name == guest.id)
    return next((session for session in sessions if session.role_arn == role.arn and session.expiration > late), None)


def _new(guest: Guest, role: Role, now: datetime) -> AssumedRole:
    sessions = _sessions()
    moment = now.replace(tzinfo=None)
    sessions.assumed_roles[:] = [session for session in sessions.assumed_roles if session.expiration > moment]
    seconds = int(SESSION.total_seconds())
    session: AssumedRole = sessions.assume_role("aws-global", guest.id, role.arn, "", seconds, "")
    return session
