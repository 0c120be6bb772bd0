"""Service accounts, their keys, custom roles, policies, and the tokens that come of them."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from typing import Annotated, Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import APIRouter, Body, Request

from goud_sandbox.documents import Document, Documents
from goud_sandbox.gcp import conditions
from goud_sandbox.gcp.base import new_id, project_number
from goud_sandbox.gcp.errors import ApiError

ACCOUNTS, KEYS, ROLES, POLICIES, TOKENS = "iam-account", "iam-key", "iam-role", "iam-policy", "iam-token"
TOKEN_SECONDS = 3600
OPERATOR = "operator"
JsonBody = Annotated[dict[str, Any] | None, Body()]

_OBJECTS = "storage.objects."
_VIEW = {_OBJECTS + verb for verb in ("get", "list")}
_BUCKET = {"storage.buckets.get"}
PREDEFINED: dict[str, set[str]] = {
    "roles/storage.objectViewer": _VIEW,
    "roles/storage.objectCreator": {_OBJECTS + "create"},
    "roles/storage.objectUser": _VIEW | {_OBJECTS + verb for verb in ("create", "update", "delete")},
    "roles/storage.objectAdmin": _VIEW | {_OBJECTS + verb for verb in ("create", "update", "delete")},
    "roles/storage.legacyBucketReader": _BUCKET | {_OBJECTS + "list"},
    "roles/storage.legacyBucketWriter": _BUCKET | {_OBJECTS + verb for verb in ("list", "create", "delete")},
}
EVERYTHING = {"roles/owner", "roles/editor", "roles/storage.admin"}


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def email(project: str, account: str) -> str:
    """The address of a service account given by its short name or its address."""
    return account if "@" in account else f"{account}@{project}.iam.gserviceaccount.com"


class Iam:
    """Who may do what. The operator's own token may do everything."""

    def __init__(self, documents: Documents, operator_token: str) -> None:
        self.documents = documents
        self._operator_token = operator_token

    def is_valid(self, token: str) -> bool:
        """Whether somebody could still use the token."""
        entry = self.documents.get(TOKENS, _digest(token))
        return entry is not None and bool(entry["expires"] >= time.time())

    def caller(self, authorization: str | None) -> str:
        """Who the bearer token belongs to: ``operator`` or a service account; 401 otherwise."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and secrets.compare_digest(token, self._operator_token):
            return OPERATOR
        entry = self.documents.get(TOKENS, _digest(token))
        if scheme.lower() != "bearer" or entry is None or entry["expires"] < time.time():
            raise ApiError(401, "authError", "Request had invalid authentication credentials.")
        return str(entry["email"])

    def permissions(self, role: str) -> set[str] | None:
        """Permissions of a role; None means all of them."""
        if role in EVERYTHING:
            return None
        custom = self.documents.get(ROLES, role)
        if custom and not custom.get("deleted"):
            return set(custom.get("includedPermissions", []))
        return PREDEFINED.get(role, set())

    def require(self, caller: str, permission: str, *policies: str, name: str = "") -> None:
        """403 unless one of the policies (by resource) gives the caller the permission; ``name`` is for conditions."""
        if caller == OPERATOR:
            return
        members = {f"serviceAccount:{caller}", "allUsers", "allAuthenticatedUsers"}
        for policy in policies:
            for binding in self.policy(policy).get("bindings", []):
                allowed = self.permissions(binding["role"])
                if not members & set(binding.get("members", [])) or not conditions.holds(
                    binding.get("condition"), name
                ):
                    continue
                if allowed is None or permission in allowed:
                    return
        resource = policies[0].removeprefix("buckets/")
        raise ApiError(403, "forbidden", f"{caller} does not have {permission} access to {resource}.")

    def policy(self, resource: str) -> Document:
        """The policy of a resource."""
        return self.documents.get(POLICIES, resource) or {"version": 1, "etag": "ACAB", "bindings": []}

    def set_policy(self, resource: str, policy: Document) -> Document:
        """Replace the policy; 409 when its etag is not the present one."""
        with self.documents.lock:
            before = self.policy(resource)
            if policy.get("etag") not in {None, before["etag"]}:
                raise ApiError(409, "conflict", "There were concurrent policy changes. Read the policy and try again.")
            after = {"version": policy.get("version", 1), "bindings": policy.get("bindings", [])}
            after["etag"] = base64.b64encode(secrets.token_bytes(6)).decode()
            self.documents.put(POLICIES, resource, after)
        return after

    def account(self, project: str, name: str) -> Document:
        """A service account by address or number, or 404."""
        for _, account in self.documents.items(ACCOUNTS):
            if name in {account["email"], account["uniqueId"]} and project in {"-", account["projectId"]}:
                return account
        raise ApiError(404, "notFound", f"Unknown service account: {name}")

    def new_account(self, project: str, body: Document) -> Document:
        """Make a service account; 409 when it exists."""
        address = email(project, str(body.get("accountId", "")))
        if self.documents.get(ACCOUNTS, address):
            raise ApiError(
                409, "alreadyExists", f"Service account {body.get('accountId')} already exists in {project}."
            )
        unique = new_id()
        account = {
            "name": f"projects/{project}/serviceAccounts/{address}",
            "projectId": project,
            "uniqueId": unique,
            "email": address,
            "displayName": (body.get("serviceAccount") or {}).get("displayName", ""),
            "etag": "MDEwMjE5MjA=",
            "oauth2ClientId": unique,
        }
        self.documents.put(ACCOUNTS, address, account)
        return account

    def new_key(self, account: Document) -> Document:
        """Make a key; the private part is in the answer only."""
        private = rsa.generate_private_key(65537, 2048)
        identity = secrets.token_hex(20)
        public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        name = f"{account['name']}/keys/{identity}"
        self.documents.put(KEYS, identity, {"name": name, "email": account["email"], "public": public.decode()})
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        content = {
            "type": "service_account",
            "project_id": account["projectId"],
            "private_key_id": identity,
            "private_key": pem.decode(),
            "client_email": account["email"],
            "client_id": account["uniqueId"],
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": "https://oauth2.googleapis.com/token",
            "universe_domain": "googleapis.com",
        }
        data = base64.b64encode(json.dumps(content, indent=2).encode()).decode()
        return {"name": name, "privateKeyType": "TYPE_GOOGLE_CREDENTIALS_FILE", "privateKeyData": data}

    def role(self, project: str, name: str) -> Document:
        """A custom role, deleted or not; 404 when there never was one."""
        role = self.documents.get(ROLES, f"projects/{project}/roles/{name}")
        if role is None:
            raise ApiError(404, "notFound", f"The role named projects/{project}/roles/{name} was not found.")
        return role

    def exchange(self, assertion: str) -> Document:
        """A signed assertion for an access token."""
        try:
            identity = str(jwt.get_unverified_header(assertion).get("kid", ""))
            key = self.documents.get(KEYS, identity)
            if key is None:
                raise ApiError(400, "invalid_grant", "Invalid JWT: the key is unknown or was deleted.")
            claims = jwt.decode(
                assertion, key["public"], algorithms=["RS256"], audience="https://oauth2.googleapis.com/token"
            )
        except jwt.PyJWTError as error:
            raise ApiError(400, "invalid_grant", f"Invalid JWT: {error}") from error
        if claims.get("iss") != key["email"]:
            raise ApiError(400, "invalid_grant", "Invalid JWT: issuer and key do not belong together.")
        token, _ = self.issue(key["email"])
        return {"access_token": token, "expires_in": TOKEN_SECONDS, "token_type": "Bearer"}

    def issue(self, address: str) -> tuple[str, float]:
        """A new access token of a service account, and when it ends (Unix time). Those that ended are forgotten."""
        now = time.time()
        for digest, entry in self.documents.items(TOKENS):
            if entry["expires"] < now:
                self.documents.delete(TOKENS, digest)
        token = f"ya29.sandbox-{secrets.token_urlsafe(24)}"
        self.documents.put(TOKENS, _digest(token), {"email": address, "expires": now + TOKEN_SECONDS})
        return token, now + TOKEN_SECONDS


def router(iam: Iam, project_id: str) -> APIRouter:
    """Routes of IAM v1, Resource Manager v1 and the token service."""
    routes = APIRouter()
    _account_routes(routes, iam)
    _key_routes(routes, iam)
    _role_routes(routes, iam)
    _project_routes(routes, iam, project_id)

    @routes.post("/token")
    async def token(request: Request) -> Document:
        form = parse_qs((await request.body()).decode())
        return iam.exchange(form.get("assertion", [""])[0])

    return routes


def _account_routes(routes: APIRouter, iam: Iam) -> None:
    prefix = "/v1/projects/{project}/serviceAccounts"

    @routes.get(prefix)
    def accounts(project: str) -> Document:
        accounts = [account for _, account in iam.documents.items(ACCOUNTS) if account["projectId"] == project]
        return {"accounts": accounts} if accounts else {}

    @routes.post(prefix)
    def create(project: str, body: JsonBody = None) -> Document:
        return iam.new_account(project, body or {})

    @routes.get(prefix + "/{name}")
    def get(project: str, name: str) -> Document:
        return iam.account(project, name)

    @routes.put(prefix + "/{name}")
    def update(project: str, name: str, body: JsonBody = None) -> Document:
        account = iam.account(project, name)
        fields = (body or {}).get("serviceAccount") or body or {}
        account["displayName"] = fields.get("displayName", account["displayName"])
        iam.documents.put(ACCOUNTS, account["email"], account)
        return account

    @routes.delete(prefix + "/{name}")
    def delete(project: str, name: str) -> Document:
        account = iam.account(project, name)
        iam.documents.delete(ACCOUNTS, account["email"])
        for collection in (KEYS, TOKENS):
            for key, entry in iam.documents.items(collection):
                if entry["email"] == account["email"]:
                    iam.documents.delete(collection, key)
        return {}


def _key_routes(routes: APIRouter, iam: Iam) -> None:
    prefix = "/v1/projects/{project}/serviceAccounts"

    @routes.post(prefix + "/{name}/keys")
    def create_key(project: str, name: str) -> Document:
        return iam.new_key(iam.account(project, name))

    @routes.get(prefix + "/{name}/keys/{key}")
    def get_key(project: str, name: str, key: str) -> Document:
        entry = iam.documents.get(KEYS, key)
        if entry is None or entry["email"] != iam.account(project, name)["email"]:
            raise ApiError(404, "notFound", f"Unknown service account key: {key}")
        return {"name": entry["name"]}

    @routes.delete(prefix + "/{name}/keys/{key}")
    def delete_key(project: str, name: str, key: str) -> Document:
        get_key(project, name, key)
        iam.documents.delete(KEYS, key)
        return {}


def _role_routes(routes: APIRouter, iam: Iam) -> None:
    prefix = "/v1/projects/{project}/roles"

    @routes.post(prefix)
    def create(project: str, body: JsonBody = None) -> Document:
        name = f"projects/{project}/roles/{(body or {}).get('roleId')}"
        if iam.documents.get(ROLES, name):
            raise ApiError(409, "alreadyExists", f"A role named {name} already exists.")
        role = {**((body or {}).get("role") or {}), "name": name, "etag": "BwWcR/B3tNk="}
        iam.documents.put(ROLES, name, role)
        return role

    @routes.get(prefix + "/{name}")
    def get(project: str, name: str) -> Document:
        return iam.role(project, name)

    @routes.patch(prefix + "/{name}")
    def patch(project: str, name: str, request: Request, body: JsonBody = None) -> Document:
        role = iam.role(project, name)
        for field in request.query_params.get("updateMask", "").split(","):
            if field and field != "name":
                role[field] = (body or {}).get(field)
        iam.documents.put(ROLES, role["name"], role)
        return role

    @routes.delete(prefix + "/{name}")
    def delete(project: str, name: str) -> Document:
        role = iam.role(project, name) | {"deleted": True}
        iam.documents.put(ROLES, role["name"], role)
        return role

    @routes.post(prefix + "/{name}:undelete")
    def undelete(project: str, name: str) -> Document:
        role = iam.role(project, name)
        role.pop("deleted", None)
        iam.documents.put(ROLES, role["name"], role)
        return role


def _project_routes(routes: APIRouter, iam: Iam, project_id: str) -> None:
    def need(project: str) -> Document:
        if project != project_id:
            message = f"Permission denied on resource project {project}, or it does not exist."
            raise ApiError(403, "forbidden", message)
        return {
            "projectId": project,
            "projectNumber": project_number(project),
            "name": project,
            "lifecycleState": "ACTIVE",
        }

    @routes.get("/v1/projects/{project}")
    def get(project: str) -> Document:
        return need(project)

    @routes.post("/v1/projects/{project}:getIamPolicy")
    def get_policy(project: str) -> Document:
        return iam.policy(f"projects/{need(project)['projectId']}")

    @routes.post("/v1/projects/{project}:setIamPolicy")
    def set_policy(project: str, body: JsonBody = None) -> Document:
        return iam.set_policy(f"projects/{need(project)['projectId']}", (body or {}).get("policy") or {})

    @routes.post("/v1/projects/{project}:testIamPermissions")
    def test(project: str, body: JsonBody = None) -> Document:
        need(project)
        return {"permissions": (body or {}).get("permissions", [])}
