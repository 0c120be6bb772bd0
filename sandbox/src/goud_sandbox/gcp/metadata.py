"""Google's metadata server: what an instance knows of itself, and tokens of its service account."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from goud_sandbox.documents import Document
from goud_sandbox.gcp.base import Base, project_number
from goud_sandbox.gcp.iam import ACCOUNTS, Iam
from goud_sandbox.gcp.instances import ALIVE
from goud_sandbox.metadata import Node, Question, Reply, Tree, find, listing

HOST = "metadata.google.internal"
ROOT = "/computeMetadata/v1"
FLAVOR = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}
RENEW_SECONDS = 300  # the server hands out the same token until this long before its end
WORDS = re.compile(r"-([a-z])")


def _html(status: int, text: str) -> Reply:
    return Reply(f"<!DOCTYPE html>\n<html lang=en><title>{text}</title><p>{text}\n", status, "text/html", FLAVOR)


class Metadata:
    """Answers by the address that asks: each instance knows itself only."""

    def __init__(self, base: Base, iam: Iam) -> None:
        self._base = base
        self._iam = iam
        self._tokens: dict[str, tuple[str, float]] = {}

    def answer(self, question: Question) -> Reply | None:
        """The answer; None when no instance of this provider has the address."""
        instance = self._instance(question.machine)
        if instance is None:
            return None
        if question.path in {"", "/"}:
            return Reply("computeMetadata/\n", headers=FLAVOR)
        if question.method not in {"GET", "HEAD"}:
            return _html(405, "Method Not Allowed")
        if "x-forwarded-for" in question.headers:
            return _html(403, "Requests with the header X-Forwarded-For are refused.")
        if question.headers.get("metadata-flavor", "").lower() != "google":
            return _html(403, "Missing required header: Metadata-Flavor: Google")
        return self._reply(self._tree(instance), question)

    def _reply(self, tree: Tree, question: Question) -> Reply:
        if not f"{question.path}/".startswith(f"{ROOT}/"):
            return _html(404, "Not Found")
        path = question.path.removeprefix(ROOT)
        node = find(tree, path)
        if node is None:
            return _html(404, "Not Found")
        if callable(node):
            return node()
        if isinstance(node, dict) and not path.endswith("/"):
            query = "&".join(f"{key}={value}" for key, value in question.query.items())
            return Reply("", 301, headers=FLAVOR | {"Location": f"{ROOT}{path}/" + (f"?{query}" if query else "")})
        recursive = question.query.get("recursive", "").lower() == "true"
        if (recursive or question.query.get("alt") == "json") and question.query.get("alt") != "text":
            return Reply(json.dumps(_document(node)), kind="application/json", headers=FLAVOR)
        return Reply(_text(node), kind="application/text", headers=FLAVOR)

    def _instance(self, address: str) -> Document | None:
        instances = (
            instance
            for instance in self._base.all("instances")
            if instance["status"] in ALIVE and instance.get("networkInterfaces")
        )
        return next(
            (instance for instance in instances if instance["networkInterfaces"][0]["networkIP"] == address), None
        )

    # the tree --------------------------------------------------------------------------------------------------

    def _tree(self, instance: Document) -> Tree:
        project, name = self._base.settings.project, str(instance["name"])
        number, zone = project_number(project), str(instance["zone"]).rsplit("/", 1)[-1]
        interface = instance["networkInterfaces"][0]
        attributes = {item["key"]: str(item["value"]) for item in instance["metadata"].get("items", [])}
        details: Tree = {
            "attributes": dict(attributes),
            "hostname": f"{name}.{zone}.c.{project}.internal",
            "id": int(instance["id"]),
            "machine-type": f"projects/{number}/machineTypes/{instance['machineType'].rsplit('/', 1)[-1]}",
            "name": name,
            "network-interfaces": {"0": {"ip": str(interface["networkIP"])}},
            "service-accounts": self._accounts(instance),
            "zone": f"projects/{number}/zones/{zone}",
        }
        return {
            "instance": details,
            "project": {"numeric-project-id": int(number), "project-id": project},
            "universe": {"universe-domain": "googleapis.com"},
        }

    def _accounts(self, instance: Document) -> Tree:
        accounts: Tree = {}
        for account in instance.get("serviceAccounts") or []:
            address = str(account["email"])
            details: Tree = {
                "aliases": ("default",),
                "email": address,
                "scopes": tuple(account.get("scopes") or ()),
                "token": lambda address=address: self._token(address),  # type: ignore[misc] # a default binds it now
            }
            accounts |= {"default": details, address: details}
        return accounts

    def _token(self, address: str) -> Reply:
        if self._base.documents.get(ACCOUNTS, address) is None:
            return _html(404, f"The service account {address} was not found.")
        token, ends = self._tokens.get(address, ("", 0.0))
        if ends - time.time() <= RENEW_SECONDS or not self._iam.is_valid(token):
            token, ends = self._iam.issue(address)
            self._tokens[address] = token, ends
        answer = {"access_token": token, "expires_in": int(ends - time.time()), "token_type": "Bearer"}
        return Reply(json.dumps(answer), kind="application/json", headers=FLAVOR)


def _text(node: Node) -> str:
    if isinstance(node, dict):
        return "".join(f"{name}\n" for name in listing(node))
    if isinstance(node, tuple):
        return "".join(f"{line}\n" for line in node)
    return str(node)


def _document(node: Node, *, verbatim: bool = False) -> Any:
    """The node in JSON: names in camel case, except those that people chose; without what is made on demand."""
    if not isinstance(node, dict):
        return list(node) if isinstance(node, tuple) else node
    return {
        name if verbatim or "@" in name else WORDS.sub(lambda match: match[1].upper(), name): _document(
            child, verbatim=name == "attributes"
        )
        for name, child in node.items()
        if not callable(child)
    }
