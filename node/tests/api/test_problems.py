"""Every error is a complete problem document, the framework's own included, and bad input loses nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from goud_node.chain.transactions import MAX_COLLECTION_BYTES
from goud_node.errors import CorruptStore

from .support import Account, Live, assert_problem

TOO_MUCH = "x" * (MAX_COLLECTION_BYTES + 1)


def test_unknown_routes(http: httpx.Client) -> None:
    document = assert_problem(http.get("/api/nothing/here%20?x=1"), 404, "not-found")
    assert document["instance"] == "/api/nothing/here%20"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("DELETE", "/api/collections", "GET, POST"), ("POST", "/health", "GET"), ("PUT", "/api/blocks/1", "GET")],
)
def test_wrong_methods_name_the_right_ones(http: httpx.Client, method: str, path: str, allowed: str) -> None:
    answer = http.request(method, path)
    assert_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "body",
    [b"{", b"", b"\xff\xfe", b'{"label": "a", "payload": NaN}', b'{"label": "\\ud800", "payload": 1}', b"[" * 5000],
)
def test_malformed_json(account: Account, body: bytes) -> None:
    answer = account.http.post("/api/collections", content=body, headers={"Content-Type": "application/json"})
    expected = (422, "invalid-request") if not body else (400, "malformed-json")
    assert_problem(answer, *expected)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"label": "a"},
        {"payload": 1},
        {"label": "", "payload": 1},
        {"label": "x" * 201, "payload": 1},
        {"label": 5, "payload": 1},
        {"label": "a", "payload": 1, "colour": "red"},
        [],
        "text",
    ],
)
def test_invalid_fields_are_named(account: Account, body: object) -> None:
    document = assert_problem(account.http.post("/api/collections", json=body), 422, "invalid-request")
    assert all(entry["field"].startswith("body") and entry["reason"] for entry in document["errors"])
    assert document["errors"]


def test_infinite_numbers(account: Account) -> None:
    body = b'{"label": "a", "payload": [1e999]}'
    answer = account.http.post("/api/collections", content=body, headers={"Content-Type": "application/json"})
    assert assert_problem(answer, 422, "invalid-request")["errors"][0]["field"] == "body.payload"


TINY = ["1e-400", "-1E-0400", "0." + "0" * 400 + "1", "5" + "0" * 20 + "e-999"]


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ('{"a": 1, "a": 2}', "a"),
        ('{"a": 1, "\\u0061": 1}', "a"),
        ('[0, {"b": {"c": [1, {"d": 1, "d": 1}]}}]', "1.b.c.1.d"),
        ('{"a": {"x": 1, "x": 1}, "a": 2}', "a.x"),
        *((f'{{"a": [0, {number}]}}', "a.1") for number in TINY),
    ],
)
def test_a_document_that_would_be_stored_as_another_is_refused(account: Account, payload: str, field: str) -> None:
    body = f'{{"label": "a", "payload": {payload}}}'.encode()
    answer = account.http.post("/api/collections", content=body, headers={"Content-Type": "application/json"})
    assert assert_problem(answer, 422, "invalid-request")["errors"][0]["field"] == f"body.payload.{field}"
    assert account.http.get("/api/collections").json()["collections"] == []


@pytest.mark.parametrize(
    "body", [b'{"label": "a", "label": "b", "payload": 1}', b'{"payload": 1, "payload": 2, "label": "a"}']
)
def test_a_field_that_is_given_twice_is_refused(account: Account, body: bytes) -> None:
    answer = account.http.post("/api/collections", content=body, headers={"Content-Type": "application/json"})
    assert assert_problem(answer, 422, "invalid-request")["errors"][0]["field"] in ("body.label", "body.payload")


SURVIVING = [
    "0.0", "-0.0", "0e-999", "0.1", "1e-300", "5e-324", "1.7976931348623157e308", "123456789012345678901234567890",
    '{"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}]}', '"\\":1,\\"a\\":2"', '{"e-":"1e-400"}', '"' + "0" * 400 + '"',
]  # fmt: skip


@pytest.mark.parametrize("payload", SURVIVING)
def test_what_survives_is_stored(account: Account, payload: str) -> None:
    body = f'{{"label": "a", "payload": {payload}}}'.encode()
    stored = account.http.post("/api/collections", content=body, headers={"Content-Type": "application/json"})
    assert stored.status_code == 201, stored.text
    text = account.http.get(stored.headers["location"]).text
    assert json.loads(text)["payload"] == json.loads(payload)


def test_bodies_that_are_not_json(account: Account) -> None:
    answer = account.http.post("/api/collections", content=b"label=a", headers={"Content-Type": "text/plain"})
    assert_problem(answer, 422, "invalid-request")


@pytest.mark.parametrize("key", ["with space", "", "x" * 256])
def test_invalid_idempotency_keys(account: Account, key: str) -> None:
    assert_problem(account.store("a", 1, key), 422, "invalid-request")


def test_a_collection_over_the_limit(account: Account) -> None:
    document = assert_problem(account.store("big", TOO_MUCH), 413, "content-too-large")
    assert str(MAX_COLLECTION_BYTES) in document["detail"]
    assert account.http.get("/api/collections").json()["collections"] == []


def test_the_largest_collection_fits(account: Account) -> None:
    payload = "x" * (MAX_COLLECTION_BYTES - 2)
    stored = account.store("y" * 200, payload)
    assert stored.status_code == 201, stored.text
    assert account.http.get(stored.headers["location"]).json()["payload"] == payload


def test_a_body_that_says_it_is_too_large_is_not_read(live: Live) -> None:
    host, _, port = live.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(
            b"POST /api/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999\r\n\r\n"
        )
        # Nothing of the body was sent, and the answer is here.
        answer = raw.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in answer


def test_a_body_without_a_length_is_cut_off_while_it_is_read(account: Account) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 64 * 1024 * 1024:
            sent += 65536
            yield b" " * 65536

    try:
        answer = account.http.post("/api/collections", content=endless(), headers={"Content-Type": "application/json"})
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        # The server closed while the client was writing: then the proof is how little it took.
        pass
    else:
        assert_problem(answer, 413, "content-too-large")
    assert sent < 32 * 1024 * 1024


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_a_little_too_large_gets_its_answer(account: Account, *, chunked: bool) -> None:
    body = b" " * (2 * 1024 * 1024)
    content = iter([body]) if chunked else body
    answer = account.http.post("/api/collections", content=content, headers={"Content-Type": "application/json"})
    assert_problem(answer, 413, "content-too-large")


@pytest.mark.parametrize("path", ["/api/collections", "/api/collections/abc", "/api/audit"])
def test_private_reads_need_a_token(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("header", ["Bearer", "Bearer x", "Basic YTpi", "Bearer a.b.c", "Bearer " + "x" * 5000])
def test_wrong_credentials(http: httpx.Client, header: str) -> None:
    assert_problem(http.get("/api/audit", headers={"Authorization": header}), 401, "unauthorized")


@pytest.mark.parametrize(
    "path",
    ["/api/blocks/x", "/api/blocks/-1", "/api/blocks?limit=0", "/api/blocks?start=-1", "/readyz?for=fun"],
)
def test_invalid_parameters(http: httpx.Client, path: str) -> None:
    assert_problem(http.get(path), 422, "invalid-request")


def test_a_mistyped_parameter_is_named(http: httpx.Client) -> None:
    document = assert_problem(http.get("/api/blocks?limt=5"), 422, "invalid-request")
    assert document["errors"] == [{"field": "query.limt", "reason": "unknown parameter, did you mean limit?"}]


def test_a_cursor_that_is_not_ours(account: Account) -> None:
    assert_problem(account.http.get("/api/collections", params={"cursor": "zz"}), 422, "invalid-request")


@pytest.mark.parametrize("height", [10**6, 2**53])
def test_a_height_beyond_the_tip(http: httpx.Client, height: int) -> None:
    assert_problem(http.get(f"/api/blocks/{height}"), 404, "not-found")


def test_a_damaged_store_is_a_plain_500_and_its_paths_stay_in_the_log(
    http: httpx.Client, live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged(_height: int) -> bytes:
        raise CorruptStore("/data/rocksdb/000042.sst is damaged")

    monkeypatch.setattr(live.node.ledger, "block", damaged)
    monkeypatch.setattr(live.node.ledger, "raw_block", damaged)
    document = assert_problem(http.get("/api/blocks/0"), 500, "internal-error")
    assert "000042.sst" not in str(document)
    assert "000042.sst" in caplog.text
    assert assert_problem(http.get("/readyz"), 503, "not-ready")["failed"] == ["store"]


def test_an_unexpected_failure_is_a_problem_too(
    http: httpx.Client, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_height: int) -> bytes:
        raise RuntimeError("a defect")

    monkeypatch.setattr(live.node.ledger, "block", broken)
    document = assert_problem(http.get("/api/blocks/0"), 500, "internal-error")
    assert "a defect" not in str(document)
