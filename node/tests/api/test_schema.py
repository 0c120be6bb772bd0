"""The OpenAPI document is true: schemathesis generates requests from it and holds every answer against it."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from goud_node.api.app import openapi_document

from .support import Account, Live

EXAMPLES = 12
# The one answer that depends on other requests: a height that no block has yet.
WAITING = "Goud-Min-Height"
KEY = "Idempotency-Key"


@pytest.fixture(scope="module")
def caller(live: Live) -> Any:
    account = Account(live.url)
    account.store("something to read", {"a": 1})
    yield account
    account.http.close()


def operations() -> dict[str, Any]:
    schema = schemathesis.openapi.from_dict(openapi_document())
    found: dict[str, Any] = {}
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        found[f"{operation.method.upper()} {operation.path}"] = operation
    return found


OPERATIONS = operations()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: str(mode.name).lower())
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_keeps_its_word(name: str, mode: GenerationMode, live: Live, caller: Account) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(case=OPERATIONS[name].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        case.headers.pop(WAITING, None)
        if mode is GenerationMode.POSITIVE and KEY in case.headers:
            # Two valid requests under one key are a conflict by design.
            case.headers[KEY] = uuid.uuid4().hex
        case.call_and_validate(base_url=live.url, headers={"Authorization": f"Bearer {caller.token}"})

    try:
        check()
    except Unsatisfiable:
        # An operation without parameters cannot be called wrongly.
        assert mode is GenerationMode.NEGATIVE
        assert not OPERATIONS[name].body


def test_the_document_names_every_route_and_problem(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert document == openapi_document()
    assert set(document["paths"]) == {
        "/livez",
        "/readyz",
        "/health",
        "/api/metrics",
        "/api/metrics/prometheus",
        "/api/accounts",
        "/api/sessions",
        "/api/collections",
        "/api/collections/{collection_id}",
        "/api/blocks",
        "/api/blocks/{height}",
        "/api/validators",
        "/api/peers",
        "/api/stats",
        "/api/audit",
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"], (path, method, status)
