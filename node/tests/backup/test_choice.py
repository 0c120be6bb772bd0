"""Choosing the node to back up: by what nodes really answer, the same on every host, the leader as the last resort."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goud_backup import choice
from goud_backup.choice import Candidate, Standing, best, judge, parse, ranked, ranking
from goud_backup.errors import NoCandidate
from goud_node.errors import ConfigurationError

from .command import Command
from .support import tip_of

NAMES = [f"node{number}" for number in range(1, 7)]


def health(name: str, **change: Any) -> dict[str, Any]:
    """What a level follower answers."""
    document = {
        "status": "healthy",
        "node_id": name,
        "chain_length": 61,
        "role": "follower",
        "proposer": "node9",
        "lag": 0,
        "synced": True,
    }
    return document | change


@contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[str]:
    """A public interface that answers the same to everything; its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def node(name: str, **change: Any) -> Iterator[str]:
    with answering(json.dumps(health(name, **change)).encode()) as url:
        yield f"{name}={url}"


standings = st.lists(
    st.builds(
        lambda name, role, lag, status: judge(
            Candidate(name, "http://x"), health(name, role=role, lag=lag, status=status, synced=lag <= 8)
        ),
        st.sampled_from(NAMES),
        st.sampled_from(["follower", "observer", "proposer", "starting"]),
        st.integers(0, 20),
        st.sampled_from(["healthy", "healthy", "degraded", "draining", "halted"]),
    ),
    unique_by=lambda one: one.name,
    max_size=len(NAMES),
)


@given(standings, st.randoms(use_true_random=False))
def test_the_ranking(found: list[Standing], shuffling: Any) -> None:
    shuffled = list(found)
    shuffling.shuffle(shuffled)
    assert ranked(shuffled) == ranked(found), "the same answer on every host, whatever the order"
    fit = {one.role for one in found if one.fit}
    if not fit:
        with pytest.raises(NoCandidate):
            best(found)
        return
    chosen = best(shuffled)
    assert chosen.fit
    assert chosen.role == next(role for role in ("follower", "observer", "proposer") if role in fit)
    others = [one for one in found if one.name != chosen.name]
    if any(one.fit for one in others):
        assert best(found, but=chosen.name).name != chosen.name


def test_a_lag_of_the_moment_does_not_divide_the_hosts() -> None:
    seen = [judge(Candidate(name, "http://x"), health(name, lag=lag)) for name, lag in (("node2", 3), ("node3", 0))]
    assert best(seen).name == "node2"
    behind = [judge(Candidate(name, "http://x"), health(name, lag=lag)) for name, lag in (("node2", 30), ("node3", 9))]
    assert best(behind).name == "node3"


def test_what_answers() -> None:
    with (
        node("node1", role="proposer", proposer="node1") as leader,
        node("node2", status="degraded", synced=False, lag=40) as behind,
        node("node3") as follower,
        node("node7") as wrong,
        answering(b"<html>") as page,
        answering(b"{}") as other,
        answering(b"", 503) as refusing,
        answering(json.dumps(health("node10")).encode().replace(b'"lag": 0', b'"lag": 9, "lag": 0')) as twice,
        answering(json.dumps(health("node11", lag="0")).encode()) as text,
        answering(json.dumps(health("node12", lag=-5)).encode()) as ahead,
    ):
        texts = [f"{leader},{behind}", f"{follower}, node4={wrong.partition('=')[2]}", f"node5={page}",
                 f"node6={other}", f"node8={refusing}", "node9=http://127.0.0.1:9", "node0=http://[::",
                 f"node10={twice},node11={text},node12={ahead}"]  # fmt: skip
        found = ranking(parse(texts))
    assert [one.name for one in found if one.fit] == ["node3", "node1"]
    reasons = {one.name: one.why for one in found}
    assert reasons["node2"] == "is degraded, 40 behind"
    assert "answers as node7" in reasons["node4"]
    assert "not JSON" in reasons["node5"]
    assert "missing required field" in reasons["node6"]
    assert reasons["node8"] == "answers 503"
    assert "twice" in reasons["node10"]
    assert "lag" in reasons["node11"]
    assert "lag" in reasons["node12"]
    assert "does not answer" in reasons["node9"]
    assert "does not answer" in reasons["node0"]


@pytest.mark.parametrize("text", ["node1", "=http://x", "node1=x:8080", "node1=http://x,node1=http://y"])
def test_a_candidate_that_is_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"NAME=URL|twice"):
        parse([text])


def test_only_the_chosen_host_acts(goud_backup: Command, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goud_backup("init")
    with node("node1", role="proposer") as one, node("node2") as two, node("node3") as three:
        monkeypatch.setenv("GOUD_BACKUP_CANDIDATES", f"{three},{one},{two}")
        for verb in (["create"], ["ship", "--data-dir", str(data)]):
            for other in ("node1", "node3"):
                told = goud_backup(*verb, "--node", other, "--json")
                assert (told["event"], told["chosen"], told["node"]) == ("not chosen", "node2", other)
                assert told["why"] == "node2 is a healthy follower, 0 behind"
                assert [row["name"] for row in told["candidates"]] == ["node2", "node3", "node1"]
            assert goud_backup(*verb, "--node", "node1")["event"] == "not chosen"
        assert goud_backup("list", "--json") == []
        assert goud_backup("create", "--node", "node2")["height"] == tip_of(data).height
        assert goud_backup("ship", "--data-dir", str(data), "--node", "node2")["event"] == "shipped"
        rows = goud_backup("choose", "--json")
        assert [(row["name"], row["chosen"]) for row in rows] == [("node2", True), ("node3", False), ("node1", False)]
        goud_backup("create", "--node", "node5", code=3)
        assert "node5 is not among them" in goud_backup.error
        goud_backup("create", code=3)
        assert "--node is not given" in goud_backup.error


def test_nobody_can(goud_backup: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with node("node1", status="draining") as one:
        monkeypatch.setenv("GOUD_BACKUP_CANDIDATES", f"{one},node2=http://127.0.0.1:9")
        goud_backup("create", "--node", "node1", code=23)
        assert "node1 is draining" in goud_backup.error
        assert "node2 does not answer" in goud_backup.error
        rows = goud_backup("choose", "--json", code=23)
        assert not any(row["chosen"] for row in rows)
    monkeypatch.delenv("GOUD_BACKUP_CANDIDATES")
    goud_backup("choose", code=3)
    assert choice.parse([]) == []
