"""A --limit chooses hosts. It never makes part of a cluster look like all of it, and never takes the verdict away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import goud_owner
import goud_reach
from tests.support.fake_engine import FakeEngine

CLUSTER = ["chain_nodes", "coordination", "edge"]
PARTS = ["node1", "node2", "etcd1", "edge1"]
INVENTORY = {"all": [*PARTS, "bastion"], "chain_nodes": PARTS[:2], "coordination": PARTS[2:3], "edge": PARTS[3:]}


# -- what a limit may leave out ---------------------------------------------------------------------------------------


def test_a_limit_that_leaves_nothing_out_is_well() -> None:
    assert goud_reach.problems("all,localhost", ["localhost", *PARTS], CLUSTER, CLUSTER, INVENTORY) == []


def test_a_limit_that_leaves_out_what_is_not_needed_is_well() -> None:
    assert goud_reach.problems("node2,localhost", ["localhost", "node2"], [], CLUSTER, INVENTORY) == []
    assert goud_reach.problems("x", ["localhost", "node2"], ["node2"], CLUSTER, INVENTORY) == []


def test_without_localhost_there_is_no_verdict() -> None:
    (sentence,) = goud_reach.problems("node*", ["node1", "node2"], [], CLUSTER, INVENTORY)
    assert "--limit node1,node2,localhost" in sentence


@pytest.mark.parametrize(
    ("needs", "reached", "missing"),
    [
        (["chain_nodes", "coordination", "edge"], ["node2"], "node1, etcd1, edge1"),
        (["edge"], ["node2"], "edge1"),
        (["node1"], ["node2"], "node1"),
        (["nowhere"], ["node2"], None),  # another check's business
    ],
)
def test_what_a_verb_needs_is_named(needs: list[str], reached: list[str], missing: str | None) -> None:
    sentences = goud_reach.problems("x", ["localhost", *reached], needs, CLUSTER, INVENTORY)
    assert len(sentences) == (missing is not None)
    assert missing is None or f"leaves out {missing}," in sentences[0]


def test_a_limit_of_no_host_of_the_cluster_is_refused() -> None:
    (sentence,) = goud_reach.problems("bastion", ["localhost", "bastion"], [], CLUSTER, INVENTORY)
    assert "no host of the groups chain_nodes, coordination, edge" in sentence
    assert goud_reach.problems("bastion", ["localhost", "bastion"], [], [], INVENTORY) == []


# -- playbooks --------------------------------------------------------------------------------------------------------


def run(
    place: Path, engine: FakeEngine, verb: str, limit: str, **variables: object
) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("ansible-playbook")
    command = [str(program), f"{verb}.yml", "-i", "inventories/local", "--limit", limit, "-e", json.dumps(variables)]
    environment = {**os.environ, **engine.environment, "ANSIBLE_NOCOLOR": "1", "COLUMNS": "500"}
    return subprocess.run(command, cwd=place, env=environment, check=False, capture_output=True, text=True)


def deployed(engine: FakeEngine, place: Path) -> None:
    """A cluster of this checkout, with a container that the whole inventory would know."""
    for folder in (".secrets/local", ".state/local/node1/releases/0a1b"):
        (place / folder).mkdir(parents=True)
    (place / ".state/local/node1/current.json").write_text("{}")
    keys, state = place / ".secrets/local", place / ".state/local"
    mark = goud_owner.mark_labels("goud-local", goud_owner.identify(goud_owner.read_checkout(keys, state)))
    engine.volume("node1_data", **{goud_owner.CLUSTER: "goud-local"})
    engine.volume(goud_owner.mark_name("goud-local"), **mark)
    labels = {goud_owner.CLUSTER: "goud-local", "io.goud-chain.role": "chain_node"}
    mounts = [{"Type": "bind", "Source": f"{state}/node1/releases/0a1b", "Destination": "/etc/goud"}]
    names = ("node1", "node2", "node3")
    engine.containers = [
        {"Id": name, "Names": [f"/{name}"], "Labels": labels, "Mounts": mounts, "State": "running", "ImageID": "x"}
        for name in names
    ]


@pytest.mark.programs
@pytest.mark.parametrize("limit", ["node2", "localhost,all,!edge1"])
@pytest.mark.parametrize("verb", ["clean", "prune"])
def test_what_removes_by_the_whole_cluster_removes_nothing_of_a_part(
    verb: str, limit: str, engine: FakeEngine, second: Path
) -> None:
    deployed(engine, second)
    result = run(second, engine, verb, limit, **{f"{verb}_confirm": True})
    assert engine.changes == []
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Nothing was touched" in result.stdout


@pytest.mark.programs
@pytest.mark.parametrize("verb", ["verify", "destroy", "stop"])
def test_without_localhost_no_verb_ends_well(verb: str, engine: FakeEngine, second: Path) -> None:
    result = run(second, engine, verb, "node2")
    assert result.returncode == 2, result.stdout + result.stderr
    assert "--limit node2,localhost" in result.stdout
    assert engine.changes == []


@pytest.mark.programs
@pytest.mark.parametrize("verb", ["destroy", "restore", "volumes_inspect"])
def test_a_verb_refuses_a_limit_that_leaves_out_what_it_needs(verb: str, engine: FakeEngine, second: Path) -> None:
    result = run(second, engine, verb, "node2,localhost", backup="latest", volumes_inspect_node="node1")
    assert result.returncode == 2, result.stdout + result.stderr
    assert "--limit node2,localhost leaves out " in result.stdout
    assert engine.changes == []


@pytest.mark.programs
@pytest.mark.parametrize(("limit", "word"), [("node2,nod3,localhost", "nod3"), ("localhost:all:!nod[1:3]", "nod[1:3]")])
def test_a_limit_of_which_a_part_matches_nothing_is_refused(
    limit: str, word: str, engine: FakeEngine, second: Path
) -> None:
    result = run(second, engine, "start", limit)
    assert result.returncode == 2, result.stdout + result.stderr
    assert f"'{word}' matches no host" in result.stdout
    assert engine.changes == []


@pytest.mark.programs
def test_a_misspelt_variable_is_refused_whatever_the_limit(engine: FakeEngine, second: Path) -> None:
    result = run(second, engine, "status", "node2", preflight_disk_fre_mb=10)
    assert "did you mean 'preflight_disk_free_mb'" in result.stdout


@pytest.mark.programs
@pytest.mark.parametrize("verb", ["status", "volumes_list"])
def test_a_reading_verb_shows_the_hosts_of_the_limit(verb: str, engine: FakeEngine, second: Path) -> None:
    for name in ("node2_data", "etcd1_data"):
        engine.volume(name, **{goud_owner.CLUSTER: "goud-local"})
    result = run(second, engine, verb, "node2,etcd1,localhost")
    assert "│ node2" in result.stdout, result.stdout + result.stderr
    assert "│ node1" not in result.stdout
    assert "Not looked at, as --limit leaves them out: node1, node3, etcd2, etcd3" in result.stdout
