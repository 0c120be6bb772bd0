"""Probes, health and metrics say what is measured."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import AsyncMock

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from goud_node.errors import OutcomeUnknown, StoreFull
from goud_node.replica.clocks import Verdict
from node.tests.conftest import wait_for

from .support import Account, Live, assert_problem

GUIDE = {
    "goud_volume_disk_used_bytes",
    "goud_volume_disk_used_mb",
    "goud_volume_rocksdb_present",
    "goud_volume_sst_files",
    "goud_chain_length",
    "goud_peer_count",
    "goud_key_cache_hit_rate",
}
DESIGN = {
    "goud_volume_disk_capacity_bytes",
    "goud_volume_disk_free_bytes",
    "goud_volume_disk_needed_bytes",
    "goud_volume_disk_full",
    "goud_block_creation_seconds",
    "goud_commit_latency_seconds",
    "goud_proposer",
    "goud_epoch",
    "goud_chain_lag_blocks",
    "goud_http_request_seconds",
    "process_resident_memory_bytes",
    "process_open_fds",
}


def scrape(http: httpx.Client) -> dict[str, float]:
    """Samples without labels, by name."""
    text = http.get("/api/metrics/prometheus").text
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def pretend(monkeypatch: pytest.MonkeyPatch, live: Live, **changes: object) -> None:
    status = replace(live.node.replica.status, **changes)  # type: ignore[arg-type]  # names are checked at run time
    monkeypatch.setattr(type(live.node.replica), "status", property(lambda _: status))


def test_livez_answers(http: httpx.Client) -> None:
    assert http.get("/livez").json() == {"status": "alive"}


def test_ready_names_every_check(http: httpx.Client) -> None:
    answer = http.get("/readyz")
    assert answer.status_code == 200
    assert set(answer.json()["checks"]) == {"store", "disk", "synced", "quorum", "clock", "draining"}
    assert all(check["ok"] for check in answer.json()["checks"].values())


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"quorum": False}, "quorum"),
        ({"synced": False, "lag": 40}, "synced"),
        ({"draining": True}, "draining"),
        ({"clock": Verdict("wrong", "An hour ahead.")}, "clock"),
        ({"halted": "conflicting-block: two at height 3"}, "store"),
    ],
)
def test_each_check_turns_readiness_red(
    http: httpx.Client, live: Live, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], check: str
) -> None:
    pretend(monkeypatch, live, **changes)
    document = assert_problem(http.get("/readyz"), 503, "not-ready")
    assert document["failed"] == [check]
    assert document["checks"][check]["ok"] is False


@pytest.mark.parametrize("clock", [Verdict("wrong", "An hour ahead."), Verdict("unread", "Nobody answers.")])
def test_reads_go_on_with_a_wrong_clock(
    http: httpx.Client, live: Live, monkeypatch: pytest.MonkeyPatch, clock: Verdict
) -> None:
    pretend(monkeypatch, live, clock=clock)
    assert http.get("/readyz", params={"for": "reads"}).status_code == 200
    assert scrape(http)["goud_clock_right"] == 0


@pytest.mark.parametrize(
    "clock", [Verdict("unread", "Nobody answers."), Verdict("wrong", "An hour ahead.", enforced=False)]
)
def test_an_unknown_clock_is_not_a_wrong_one(
    http: httpx.Client, live: Live, monkeypatch: pytest.MonkeyPatch, clock: Verdict
) -> None:
    pretend(monkeypatch, live, clock=clock)
    check = http.get("/readyz").json()["checks"]["clock"]
    assert check == {"ok": True, "detail": clock.detail}


def test_a_block_that_is_ahead_of_the_clock_is_measured(
    http: httpx.Client, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scrape(http)["goud_block_ahead_seconds"] == 0
    tip = live.node.ledger.tip
    monkeypatch.setattr(live.node.api.state.context, "wall", lambda: tip.timestamp_ms / 1000 - 90)
    assert scrape(http)["goud_block_ahead_seconds"] == 90


def test_reads_go_on_without_a_quorum(http: httpx.Client, live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, live, quorum=False, synced=False, lag=0)
    assert http.get("/readyz").status_code == 503
    assert http.get("/readyz", params={"for": "reads"}).status_code == 200
    assert http.get("/health").json()["status"] == "degraded"


def test_a_node_that_lags_is_not_ready_for_reads(
    http: httpx.Client, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, live, quorum=False, synced=False, lag=3)
    assert http.get("/readyz", params={"for": "reads"}).status_code == 503


def test_a_full_disk_is_red_and_refuses_writes_only(
    http: httpx.Client, live: Live, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = live.node.api.state.context
    room = context.room()
    full = replace(room, free=room.needed - 1)
    monkeypatch.setattr(context, "room", lambda: full)
    assert assert_problem(http.get("/readyz"), 503, "not-ready")["failed"] == ["disk"]
    assert http.get("/readyz", params={"for": "reads"}).status_code == 200
    problem = assert_problem(account.store("x", 1), 507, "disk-full")
    assert problem["path"] == str(live.node.settings.data_dir)
    assert (problem["free_bytes"], problem["needed_bytes"]) == (room.needed - 1, room.needed)
    assert_problem(http.post("/api/accounts"), 507, "disk-full")
    assert scrape(http)["goud_volume_disk_full"] == 1
    assert account.http.get("/api/collections").status_code == 200


def test_a_refused_write_keeps_the_check_red_until_one_succeeds(
    http: httpx.Client, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = live.node.store
    with monkeypatch.context() as patch:
        patch.setattr(live.node.disk, "_retry", AsyncMock())  # which may come at any moment
        store.refused = True
        assert assert_problem(http.get("/readyz"), 503, "not-ready")["failed"] == ["disk"]
    wait_for(lambda: http.get("/readyz").status_code == 200)
    assert not store.refused
    assert scrape(http)["goud_volume_disk_full"] == 0


def test_a_database_that_takes_no_writes_is_red_and_serves_reads(
    http: httpx.Client, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = live.node.api.state.context
    broken = replace(context.room(), failure="an I/O error on /secret/path")
    monkeypatch.setattr(context, "room", lambda: broken)
    problem = assert_problem(http.get("/readyz"), 503, "not-ready")
    assert problem["failed"] == ["disk"]
    assert "secret" not in problem["detail"]
    assert http.get("/readyz", params={"for": "reads"}).status_code == 200


def test_a_node_behind_for_want_of_space_names_the_disk_alone(
    http: httpx.Client, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = live.node.api.state.context
    full = replace(context.room(), free=0)
    monkeypatch.setattr(context, "room", lambda: full)
    pretend(monkeypatch, live, synced=False, lag=100)
    assert assert_problem(http.get("/readyz"), 503, "not-ready")["failed"] == ["disk"]
    reads = assert_problem(http.get("/readyz", params={"for": "reads"}), 503, "not-ready")
    assert reads["failed"] == ["synced"], "what it serves is old, so no balancer should send reads here"
    assert "disk" in reads["detail"]


@pytest.mark.parametrize("full_at_once", [True, False])
def test_a_write_that_meets_a_full_disk_is_refused_or_unknown(
    live: Live, account: Account, monkeypatch: pytest.MonkeyPatch, full_at_once: bool
) -> None:
    failures: list[Exception] = [StoreFull("the disk of /data is full")]
    if not full_at_once:
        failures.insert(0, OutcomeUnknown("the answer was lost"))

    async def submit(_transaction: bytes, **_limits: float) -> None:
        raise failures.pop(0)

    monkeypatch.setattr(live.node.replica, "submit", submit)
    answer = account.store("x", 1)
    problem = assert_problem(answer, *((507, "disk-full") if full_at_once else (504, "outcome-unknown")))
    assert "the disk of /data is full" in problem["detail"]


def test_health_has_the_guides_fields(http: httpx.Client, live: Live, account: Account) -> None:
    height = account.store("a", 1).json()["height"]
    health = http.get("/health").json()
    tip = live.node.ledger.tip
    assert health["status"] == "healthy"
    assert health["node_id"] == "node1"
    assert health["chain_length"] == health["latest_block"]["height"] + 1 >= height + 1
    assert health["latest_block"]["hash"] == tip.hash.hex()
    assert (health["peer_count"], health["proposer"], health["epoch"], health["lag"]) == (0, "node1", 1, 0)
    assert health["schema"] == 1


def test_metrics_json_has_the_guides_shape(http: httpx.Client, live: Live) -> None:
    volume = http.get("/api/metrics").json()["volume_metrics"]
    assert set(volume) >= {"disk_used_bytes", "disk_used_mb", "mount_path", "rocksdb_present", "sst_file_count"}
    assert volume["mount_path"] == str(live.node.settings.data_dir)
    assert volume["disk_used_mb"] == volume["disk_used_bytes"] // 2**20
    assert volume["rocksdb_present"] is True
    assert 0 < volume["disk_free_bytes"] < volume["disk_capacity_bytes"]


def test_every_promised_metric_is_there(http: httpx.Client) -> None:
    http.get("/health")
    text = http.get("/api/metrics/prometheus").text
    names = {family.name for family in text_string_to_metric_families(text)}
    assert names >= GUIDE | DESIGN


def test_figures_follow_what_happens(http: httpx.Client, account: Account) -> None:
    before = scrape(http)
    account.store("a", 1)
    account.store("b", 2)
    after = scrape(http)
    assert after["goud_chain_length"] == before["goud_chain_length"] + 2
    assert after["goud_collections"] == before["goud_collections"] + 2
    assert after["goud_block_creation_seconds_count"] >= before["goud_block_creation_seconds_count"] + 2
    assert after["goud_commit_latency_seconds_count"] == before["goud_commit_latency_seconds_count"] + 2
    assert after["goud_key_cache_hits_total"] > before["goud_key_cache_hits_total"]
    assert 0 < after["goud_key_cache_hit_rate"] <= 1
    assert after["goud_proposer"] == 1


def test_requests_are_counted_by_route_template(http: httpx.Client) -> None:
    for height in (0, 1):
        http.get(f"/api/blocks/{height}")
    http.get("/no/such/route")
    text = http.get("/api/metrics/prometheus").text
    routes = {
        sample.labels["route"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.name == "goud_http_request_seconds"
    }
    assert "/api/blocks/{height}" in routes
    assert "unmatched" in routes
    assert not any("no/such" in route for route in routes)


def test_openmetrics_on_request(http: httpx.Client) -> None:
    answer = http.get("/api/metrics/prometheus", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


VERSIONS = st.sampled_from(["1.x", "..", "", "99", "a.b.c", "0.0.4", "1.0.0", "1.0.0;version=b", "²"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["application/openmetrics-text", "text/plain", "*/*", ";", "="]),
    version=VERSIONS,
    more=st.sampled_from(["", ";q=x", ";escaping=", ";escaping=dots", ";escaping=foo", ";version"]),
)
def test_metrics_are_served_whatever_is_accepted(http: httpx.Client, kind: str, version: str, more: str) -> None:
    accept = f"{kind};version={version}{more}".encode()
    assert http.get("/api/metrics/prometheus", headers=[(b"Accept", accept)]).status_code == 200


def test_answers_close_their_connection_while_draining(
    http: httpx.Client, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "connection" not in http.get("/health").headers
    pretend(monkeypatch, live, draining=True)
    answer = http.get("/health")
    assert answer.headers["connection"] == "close"
    assert answer.json()["status"] == "draining"
