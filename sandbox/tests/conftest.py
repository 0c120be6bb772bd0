from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from goud_sandbox.apifaults import ApiFaults
from goud_sandbox.documents import Documents
from goud_sandbox.gcp.app import Google
from goud_sandbox.settings import Settings

from .aws import Account


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hundreds of real requests take a minute together: they are a stage of their own (`pytest -m apis`)."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not {"sandbox", "cloud"} & {
            m.name for m in item.iter_markers()
        }:
            item.add_marker(pytest.mark.apis)


PROJECT = "demo"
TOKEN = "operator-token"
ZONE = f"/compute/v1/projects/{PROJECT}/zones/europe-west4-a"
REGION = f"/compute/v1/projects/{PROJECT}/regions/europe-west4"
WORLD = f"/compute/v1/projects/{PROJECT}/global"
IMAGE = "projects/debian-cloud/global/images/family/debian-13"


class Client:
    """Blocking calls of an application in this process."""

    def __init__(self, app: FastAPI, headers: dict[str, str]) -> None:
        self._app = app
        self.headers = headers

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._request(method, path, options))

    async def _request(self, method: str, path: str, options: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=True)
        headers = self.headers | options.pop("headers", {})
        async with httpx.AsyncClient(
            transport=transport, base_url="https://www.googleapis.com", trust_env=False
        ) as client:
            return await client.request(method, path, headers=headers, **options)


class Cloud:
    """Google's API over a room that does as it is told; ``room_errors`` makes it fail."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(project=PROJECT, operation_seconds=0.02, quota_ssd_gb=500, quota_cpus=8)
        self.documents = Documents(folder / "documents.db")
        self.faults = ApiFaults(self.documents)
        self.room_errors: dict[str, str] = {}
        self.google = Google(
            self.documents,
            settings,
            self.faults,
            operator_token=TOKEN,
            objects=folder / "objects",
            settle=self._settle,
        )
        self.client = Client(self.google.app, {"authorization": f"Bearer {TOKEN}"})

    def _settle(self, *names: str) -> str | None:
        return next((self.room_errors[name] for name in names if name in self.room_errors), None)

    def call(self, method: str, path: str, body: Any = None, expect: int = 200, **params: str) -> dict[str, Any]:
        answer = self.client.request(method, path, json=body, params=params)
        assert answer.status_code == expect, answer.text
        document: dict[str, Any] = answer.json() if answer.content else {}
        return document

    def do(self, method: str, path: str, body: Any = None, **params: str) -> dict[str, Any]:
        """A call that gives an operation; the operation when it is done."""
        operation = self.call(method, path, body, 200, **params)
        assert operation["status"] == "PENDING"
        place = operation["selfLink"].split("/compute/v1")[1]
        return self.call("POST", f"/compute/v1{place}/wait")

    def refusal(self, method: str, path: str, body: Any = None, **params: str) -> tuple[int, str, str]:
        answer = self.client.request(method, path, json=body, params=params)
        assert answer.is_error, answer.text
        error = answer.json()["error"]
        return answer.status_code, error["errors"][0]["reason"], error["message"]

    def network(self) -> None:
        self.do("POST", f"{WORLD}/networks", {"name": "net", "autoCreateSubnetworks": False})
        body = {"name": "sub", "network": f"projects/{PROJECT}/global/networks/net", "ipCidrRange": "10.1.0.0/24"}
        self.do("POST", f"{REGION}/subnetworks", body)

    def disk(self, name: str = "data", size: int = 10, **fields: Any) -> dict[str, Any]:
        return self.do("POST", f"{ZONE}/disks", {"name": name, "sizeGb": size, **fields})

    def instance(self, name: str = "vm", disks: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
        boot_disk = {"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": IMAGE}}
        data = [
            {"source": f"projects/{PROJECT}/zones/europe-west4-a/disks/{name}", "deviceName": name} for name in disks
        ]
        subnetwork = f"projects/{PROJECT}/regions/europe-west4/subnetworks/sub"
        body = {
            "name": name,
            "machineType": "zones/europe-west4-a/machineTypes/e2-medium",
            "disks": [boot_disk, *data],
            "networkInterfaces": [{"subnetwork": subnetwork, "accessConfigs": [{"type": "ONE_TO_ONE_NAT"}]}],
            **fields,
        }
        return self.do("POST", f"{ZONE}/instances", body)


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


@pytest.fixture
def make_cloud(tmp_path: Path) -> Callable[[], Cloud]:
    """The same state again: what a restarted service sees."""
    return lambda: Cloud(tmp_path)


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    account = Account(tmp_path)
    try:
        yield account
    finally:
        account.close()


@pytest.fixture
def make_account(tmp_path: Path) -> Iterator[Callable[[], Account]]:
    """The same state again: what a restarted service sees."""
    accounts: list[Account] = []

    def restart() -> Account:
        accounts.append(Account(tmp_path))
        return accounts[-1]

    yield restart
    for account in accounts:
        account.close()
