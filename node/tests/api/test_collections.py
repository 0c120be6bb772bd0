"""Accounts, sessions and collections, as clients use them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from goud_node.api.vault import ApiKey
from goud_node.errors import CoordinationFull, Draining, OutcomeUnknown, Unavailable

from .support import Account, Live, assert_problem

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


def test_what_was_stored_is_read_back(account: Account) -> None:
    stored = account.store("häuser 🏠", {"list": [1, 2.5, None, True], "text": "ü"})
    assert stored.status_code == 201
    receipt = stored.json()
    assert stored.headers["location"] == f"/api/collections/{receipt['collection_id']}"
    found = account.http.get(stored.headers["location"]).json()
    assert (found["label"], found["payload"]) == ("häuser 🏠", {"list": [1, 2.5, None, True], "text": "ü"})
    assert (found["height"], found["index"]) == (receipt["height"], receipt["index"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=JSON, label=st.text(min_size=1, max_size=200))
def test_any_json_survives(account: Account, payload: object, label: str) -> None:
    stored = account.store(label, payload)
    assert stored.status_code == 201, stored.text
    found = account.http.get(stored.headers["location"]).json()
    assert (found["label"], found["payload"]) == (label, payload)


def test_the_chain_holds_ciphertext_only(account: Account, live: Live) -> None:
    stored = account.store("secret-label", "secret-payload").json()
    raw = live.node.ledger.raw_block(stored["height"])
    assert raw is not None
    assert b"secret-label" not in raw
    assert b"secret-payload" not in raw
    secret = ApiKey.parse(account.api_key)
    assert secret is not None
    assert secret.secret.encode() not in raw


def test_a_repeat_is_applied_once(account: Account) -> None:
    first = account.store("once", [1], "key-1")
    again = account.store("once", [1], "key-1")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert len(account.http.get("/api/collections").json()["collections"]) == 1


@pytest.mark.parametrize(("label", "payload"), [("once", [2]), ("other", [1])])
def test_a_repeat_with_other_content_is_refused(account: Account, label: str, payload: object) -> None:
    account.store("once", [1], "key-1")
    assert_problem(account.store(label, payload, "key-1"), 422, "idempotency-conflict")


def test_idempotency_keys_belong_to_their_account(new_account: Callable[[], Account]) -> None:
    first, second = new_account(), new_account()
    assert first.store("a", 1, "same").status_code == 201
    assert second.store("b", 2, "same").status_code == 201


def test_the_key_is_answered_when_none_was_sent(account: Account) -> None:
    first = account.store("a", 1).json()
    assert account.store("a", 1, first["idempotency_key"]).json() == first


def test_pages_are_complete_and_newest_first(account: Account) -> None:
    ids = [account.store(f"label {number}", number).json()["collection_id"] for number in range(7)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        query: dict[str, str | int] = {"limit": 3} | ({} if cursor is None else {"cursor": cursor})
        page = account.http.get("/api/collections", params=query).json()
        seen += [entry["collection_id"] for entry in page["collections"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]
    assert page["collections"][-1]["label"] == "label 0"
    assert page["collections"][-1]["size"] == 1


def test_accounts_cannot_read_each_other(new_account: Callable[[], Account]) -> None:
    mine, other = new_account(), new_account()
    stored = mine.store("mine", 1)
    assert_problem(other.http.get(stored.headers["location"]), 404, "not-found")
    assert other.http.get("/api/collections").json()["collections"] == []


def test_the_audit_log_has_what_the_account_did(account: Account) -> None:
    stored = account.store("a", 1).json()
    entries = account.http.get("/api/audit").json()["entries"]
    assert [(entry["action"], entry["subject_id"]) for entry in entries] == [
        ("collection.put", stored["collection_id"]),
        ("account.create", account.account_id),
    ]
    first = account.http.get("/api/audit", params={"limit": 1}).json()
    rest = account.http.get("/api/audit", params={"cursor": first["next_cursor"]}).json()
    assert first["entries"] + rest["entries"] == entries


@pytest.mark.parametrize("key", ["", "nonsense", "goud_", "goud_x_", "goud_abc_secret", "goud_é_x", "g" * 300])
def test_a_wrong_api_key_opens_no_session(http: httpx.Client, key: str) -> None:
    answer = http.post("/api/sessions", json={"api_key": key})
    if 1 <= len(key) <= 200:
        assert_problem(answer, 401, "unauthorized")
    else:
        assert_problem(answer, 422, "invalid-request")


def test_the_right_account_with_the_wrong_secret_opens_no_session(http: httpx.Client, account: Account) -> None:
    forged = account.api_key[:-1] + ("A" if account.api_key[-1] != "A" else "B")
    assert_problem(http.post("/api/sessions", json={"api_key": forged}), 401, "unauthorized")


def test_keys_and_tokens_are_not_cached(http: httpx.Client) -> None:
    created = http.post("/api/accounts")
    assert created.headers["cache-control"] == "no-store"
    session = http.post("/api/sessions", json={"api_key": created.json()["api_key"]})
    assert session.headers["cache-control"] == "no-store"


def test_the_end_of_a_session_is_told_to_programs_and_to_people(http: httpx.Client) -> None:
    key = http.post("/api/accounts").json()["api_key"]
    session = http.post("/api/sessions", json={"api_key": key}).json()
    assert datetime.fromisoformat(session["expires_at"]).timestamp() == session["expires"]
    assert session["expires_at"].endswith("Z")


def test_a_read_waits_for_the_height_it_names(account: Account, live: Live) -> None:
    height = live.node.ledger.height
    answer = account.http.get("/api/stats", headers={"Goud-Min-Height": str(height)})
    assert answer.json()["chain_length"] == height + 1
    began = time.monotonic()
    behind = account.http.get("/api/stats", headers={"Goud-Min-Height": str(height + 1)})
    assert_problem(behind, 503, "behind")
    assert behind.headers["retry-after"] == "1"
    assert 0.15 < time.monotonic() - began < 2


@pytest.mark.parametrize(
    "error",
    [Unavailable("no majority", retry_after=2.2), CoordinationFull("out of space"), Draining("stopping")],
)
def test_writes_that_did_not_happen_say_when_to_retry(
    account: Account, live: Live, monkeypatch: pytest.MonkeyPatch, error: Unavailable
) -> None:
    async def refuse(_transaction: bytes, *, budget: float) -> None:
        assert budget > 0
        raise error

    stored = account.store("kept", 1)
    monkeypatch.setattr(live.node.replica, "submit", refuse)
    answer = account.store("x", 1)
    assert_problem(answer, 503, error.code)
    assert int(answer.headers["retry-after"]) >= error.retry_after
    assert account.http.get(stored.headers["location"]).json()["payload"] == 1


def test_without_a_quorum_writes_are_refused_soon_and_reads_go_on(
    account: Account, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = account.store("kept", 1)
    status = replace(live.node.replica.status, quorum=False, synced=False)
    monkeypatch.setattr(type(live.node.replica), "status", property(lambda _: status))
    answer = account.store("x", 1)
    assert_problem(answer, 503, "no-quorum")
    assert answer.headers["retry-after"] == "2"
    assert account.http.get(stored.headers["location"]).json()["payload"] == 1


def test_an_unknown_outcome_is_asked_again_with_the_same_bytes(
    account: Account, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = live.node.replica.submit
    sent: list[bytes] = []

    async def lossy(transaction: bytes, *, budget: float) -> object:
        sent.append(transaction)
        receipt = await real(transaction, budget=budget)
        if len(sent) == 1:
            raise OutcomeUnknown("the answer was lost")
        if len(sent) == 2:
            raise Unavailable("for a moment")
        return receipt

    monkeypatch.setattr(live.node.replica, "submit", lossy)
    assert account.store("lossy", 1).status_code == 201
    assert len(sent) == 3
    assert len(set(sent)) == 1
    monkeypatch.undo()
    assert len(account.http.get("/api/collections").json()["collections"]) == 1


def test_an_outcome_that_stays_unknown_is_504(account: Account, live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[float] = []

    async def lost(_transaction: bytes, *, budget: float) -> None:
        budgets.append(budget)
        raise OutcomeUnknown("the answer was lost")

    monkeypatch.setattr(live.node.replica, "submit", lost)
    monkeypatch.setitem(vars(live.node.settings), "submit_deadline_seconds", 0.3)
    assert_problem(account.store("x", 1), 504, "outcome-unknown")
    assert 0.3 >= budgets[0] > budgets[-1] > 0, "all tries share one deadline, which began with the request"
