"""A cluster belongs to the checkout that deployed it: another one on the same engine changes nothing of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import documentation
import goud_owner
from tests.support.fake_engine import FakeEngine

ROOT = documentation.ROOT
CLUSTER = "goud-local"
LABELS = {"io.goud-chain.cluster": CLUSTER}


def checkout(place: Path) -> goud_owner.Checkout:
    return goud_owner.read_checkout(place / ".secrets/local", place / ".state/local")


def deploy_from(place: Path) -> dict[str, str]:
    """What a deploy leaves in a checkout; the labels of its mark."""
    for folder in (".secrets/local", ".state/local/node1/releases/0a1b"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    (place / ".state/local/node1/current.json").write_text("{}")
    return goud_owner.mark_labels(CLUSTER, goud_owner.identify(checkout(place)))


def judge(place: Path, evidence: goud_owner.Traces) -> goud_owner.Owner | None:
    return goud_owner.other_owner(evidence, checkout(place))


def by_mark(labels: dict[str, str]) -> goud_owner.Traces:
    return goud_owner.Traces(labels, (), ("node1_data",))


def by_folders(place: Path) -> goud_owner.Traces:
    """A cluster of a release without marks."""
    return goud_owner.Traces(None, (place / ".state/local/node1/releases/0a1b",), ("node1_data",))


# -- with a mark ------------------------------------------------------------------------------------------------------


def test_a_cluster_belongs_to_who_deployed_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    evidence = by_mark(deploy_from(first))
    assert judge(first, evidence) is None
    assert judge(second, evidence) == goud_owner.Owner(first / ".secrets/local", present=True)
    deploy_from(second)  # of a time before
    assert judge(second, evidence) == goud_owner.Owner(first / ".secrets/local", present=True)


def test_a_checkout_that_was_moved_goes_on(tmp_path: Path) -> None:
    first, moved = tmp_path / "first", tmp_path / "moved"
    evidence = by_mark(deploy_from(first))
    first.rename(moved)
    assert judge(moved, evidence) is None
    labels = goud_owner.mark_labels(CLUSTER, goud_owner.identify(checkout(moved)))
    assert labels != evidence.mark
    assert judge(moved, by_mark(labels)) is None
    first.symlink_to(moved)
    assert judge(first, by_mark(labels)) is None, "and so by the way that is typed"


def test_another_checkout_at_the_former_path_is_another(tmp_path: Path) -> None:
    first, moved = tmp_path / "first", tmp_path / "moved"
    evidence = by_mark(deploy_from(first))
    first.rename(moved)
    first.mkdir()
    assert judge(first, evidence) == goud_owner.Owner(first / ".secrets/local", present=False)
    assert judge(moved, evidence) is None


def test_a_copy_is_not_the_owner_while_the_original_is_there(tmp_path: Path) -> None:
    first, copy = tmp_path / "first", tmp_path / "copy"
    evidence = by_mark(deploy_from(first))
    shutil.copytree(first, copy)
    for traces in (evidence, goud_owner.Traces(None, (), ("node1_data",))):
        assert judge(copy, traces) == goud_owner.Owner(first / ".secrets/local", present=True)
        assert judge(first, traces) is None


def test_a_copy_that_deploys_becomes_another_checkout(tmp_path: Path) -> None:
    first, copy = tmp_path / "first", tmp_path / "copy"
    deploy_from(first)
    shutil.copytree(first, copy)
    assert judge(copy, goud_owner.Traces()) is None
    evidence = by_mark(deploy_from(copy))
    assert judge(copy, evidence) is None
    assert judge(first, evidence) == goud_owner.Owner(copy / ".secrets/local", present=True)


def test_of_two_copies_the_one_that_the_mark_names_is_the_owner(tmp_path: Path) -> None:
    first, copy, moved = tmp_path / "first", tmp_path / "copy", tmp_path / "moved"
    deploy_from(first)
    shutil.copytree(first, copy)
    first.rename(moved)
    evidence = by_mark(goud_owner.mark_labels(CLUSTER, goud_owner.identify(checkout(moved))))
    assert judge(moved, evidence) is None
    assert judge(copy, evidence) == goud_owner.Owner(moved / ".secrets/local", present=True)


def test_without_its_keys_a_checkout_has_to_say_that_it_takes_over(tmp_path: Path) -> None:
    evidence = by_mark(deploy_from(tmp_path))
    shutil.rmtree(tmp_path / ".secrets")
    owner = judge(tmp_path, evidence)
    assert owner is not None
    assert not owner.present
    assert "with keys that no longer exist" in goud_owner.refusal(CLUSTER, owner, evidence, checkout(tmp_path))


@pytest.mark.parametrize("card", ["", "{", "[]", "null", '{"identity": 1}', '{"folder": "/"}'])
def test_a_card_that_cannot_be_read_is_none(tmp_path: Path, card: str) -> None:
    evidence = by_mark(deploy_from(tmp_path / "first"))
    keys = tmp_path / "second/.secrets/local"
    keys.mkdir(parents=True)
    (keys / "checkout.json").write_text(card)
    assert judge(tmp_path / "second", evidence) is not None


# -- without a mark: clusters of earlier releases ---------------------------------------------------------------------


def test_an_unmarked_cluster_belongs_to_whose_folders_it_is_configured_from(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    deploy_from(first)
    evidence = by_folders(first)
    assert judge(first, evidence) is None
    assert judge(second, evidence) == goud_owner.Owner(evidence.folders[0], present=True)
    shutil.copytree(first, second)
    assert judge(second, evidence) == goud_owner.Owner(evidence.folders[0], present=True), "nor to a copy"


def test_an_unmarked_cluster_follows_its_checkout(tmp_path: Path) -> None:
    first, moved, other = tmp_path / "first", tmp_path / "moved", tmp_path / "other"
    deploy_from(first)
    evidence = by_folders(first)
    first.rename(moved)
    assert judge(moved, evidence) is None
    assert judge(other, evidence) == goud_owner.Owner(evidence.folders[0], present=False)


def test_volumes_alone_are_left_to_a_checkout_that_has_deployed(tmp_path: Path) -> None:
    evidence = goud_owner.Traces(None, (), ("etcd1_data", "node1_data"))
    deploy_from(tmp_path / "first")
    assert judge(tmp_path / "first", evidence) is None
    owner = judge(tmp_path / "second", evidence)
    assert owner == goud_owner.Owner()
    assert "etcd1_data, node1_data" in goud_owner.refusal(CLUSTER, owner, evidence, checkout(tmp_path / "second"))


def test_nothing_is_nobodys(tmp_path: Path) -> None:
    assert judge(tmp_path, goud_owner.Traces()) is None


def test_traces_are_those_of_parts_and_their_configuration() -> None:
    def container(role: str, *mounts: tuple[str, str, str]) -> dict[str, Any]:
        entries = [{"Type": kind, "Source": source, "Destination": place} for kind, source, place in mounts]
        return {"Labels": {**LABELS, "io.goud-chain.role": role}, "Mounts": entries}

    containers: list[dict[str, Any]] = [
        container("chain_node", ("bind", "/a/releases/1", "/etc/goud"), ("volume", "node1_data", "/data")),
        container("load_balancer", ("bind", "/a/config", "/etc/haproxy"), ("bind", "/run", "/run/goud")),
        container("chain_backup", ("bind", "/mnt/backups", "/etc/repository")),
        {"Labels": None, "Mounts": None},
    ]
    mark = {"Name": goud_owner.mark_name(CLUSTER), "Labels": LABELS}
    evidence = goud_owner.traces(CLUSTER, containers, [mark, {"Name": "node1_data", "Labels": None}])
    assert evidence == goud_owner.Traces(LABELS, (Path("/a/config"), Path("/a/releases/1")), ("node1_data",))


# -- images of other clusters -----------------------------------------------------------------------------------------


def other_cluster(place: Path, *parts: str) -> list[dict[str, Any]]:
    """The volumes of a stopped cluster of another checkout, whose parts have proven releases."""
    labels = deploy_from(place) | {"io.goud-chain.cluster": "other"}
    (place / ".state/local/node1/current.json").unlink()
    for part in parts:
        (place / f".state/local/{part}").mkdir(exist_ok=True)
        for name in ("current", "previous"):
            (place / f".state/local/{part}/{name}.json").write_text(json.dumps({"image": f"sha256:{part}-{name}"}))
    return [{"Name": "other-owner", "Labels": labels}, {"Name": "data", "Labels": {goud_owner.CLUSTER: "other"}}]


def test_records_of_another_cluster_name_its_images(tmp_path: Path) -> None:
    volumes = other_cluster(tmp_path, "node1", "etcd1")
    images = {f"sha256:{part}-{name}" for part in ("node1", "etcd1") for name in ("current", "previous")}
    own: list[dict[str, Any]] = [{"Name": "node1_data", "Labels": LABELS}, {"Name": "x", "Labels": None}]
    assert goud_owner.other_images(CLUSTER, [], [*own, *volumes]) == (images, [])
    assert goud_owner.other_images(CLUSTER, [{"Labels": LABELS}], own) == (set(), [])


def no_record(_place: Path, _volumes: list[dict[str, Any]]) -> None:
    """Nothing was proven yet, or the checkout is gone."""


def moved_away(place: Path, _volumes: list[dict[str, Any]]) -> None:
    shutil.rmtree(place)


def half_a_record(place: Path, _volumes: list[dict[str, Any]]) -> None:
    (place / ".state/local/node1/current.json").write_text("{")


def a_record_of_another_form(place: Path, _volumes: list[dict[str, Any]]) -> None:
    (place / ".state/local/node1/current.json").write_text("[]")


def a_record_that_may_not_be_read(place: Path, _volumes: list[dict[str, Any]]) -> None:
    """Permissions do not bind root: a folder in its place fails in the same way."""
    (place / ".state/local/node1/current.json").mkdir()


def no_mark(_place: Path, volumes: list[dict[str, Any]]) -> None:
    del volumes[0]


@pytest.mark.parametrize(
    "fault", [no_record, moved_away, half_a_record, a_record_of_another_form, a_record_that_may_not_be_read, no_mark]
)
def test_a_cluster_whose_records_cannot_be_read_is_named(tmp_path: Path, fault: Any) -> None:
    volumes = other_cluster(tmp_path, *(["etcd1"] if fault in {half_a_record, a_record_that_may_not_be_read} else []))
    fault(tmp_path, volumes)
    images, silent = goud_owner.other_images(CLUSTER, [], volumes)
    assert (images, silent) == (set(), ["other"])


# -- verbs ------------------------------------------------------------------------------------------------------------

CHANGING = ["deploy", "clean", "backup"]
"""One of each kind; that every verb asks is a convention (tests/conventions/test_verbs.py)."""


def run(
    place: Path, engine: FakeEngine, verb: str, *words: str, **variables: object
) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("ansible-playbook")
    confirmation = {f"{verb}_confirm": True} if verb in {"clean", "prune", "restore"} else {}
    sayings = {"backup": "latest", **confirmation, **variables}
    command = [str(program), f"{verb}.yml", "-i", "inventories/local", "-e", json.dumps(sayings), *words]
    environment = {**os.environ, **engine.environment, "ANSIBLE_NOCOLOR": "1", "COLUMNS": "500"}
    return subprocess.run(command, cwd=place, env=environment, check=False, capture_output=True, text=True)


def marked(engine: FakeEngine, place: Path) -> None:
    engine.volume("node1_data", **LABELS)
    engine.volume(goud_owner.mark_name(CLUSTER), **deploy_from(place))


def unmarked(engine: FakeEngine, place: Path) -> None:
    deploy_from(place)
    mount = {"Type": "bind", "Source": str(place / ".state/local/node1/releases/0a1b"), "Destination": "/etc/goud"}
    labels = {**LABELS, "io.goud-chain.role": "chain_node"}
    engine.containers = [{"Id": "1", "Names": ["/node1"], "Labels": labels, "Mounts": [mount], "State": "running"}]
    engine.volume("node1_data", **LABELS)


@pytest.mark.programs
@pytest.mark.parametrize("verb", CHANGING)
def test_a_second_checkout_changes_nothing(verb: str, engine: FakeEngine, tmp_path: Path, second: Path) -> None:
    first = tmp_path / "the first"
    (marked if verb != "clean" else unmarked)(engine, first)
    result = run(second, engine, verb)
    assert result.returncode == 2, result.stdout + result.stderr
    assert f"belongs to the checkout {first}, not to this one ({second})" in result.stdout
    assert engine.changes == []
    assert not (second / ".state").exists()
    assert [path.name for path in (second / ".secrets").rglob("*")] in ([], ["local"], ["local", "running"])


@pytest.mark.programs
@pytest.mark.parametrize(
    ("words", "variables"),
    [(["--start-at-task", "Look what is there"], {}), (["--step"], {}), ([], {"goud_engine_shared": False})],
)
def test_nothing_switches_off_to_whom_a_cluster_belongs(
    words: list[str], variables: dict[str, object], engine: FakeEngine, tmp_path: Path, second: Path
) -> None:
    marked(engine, tmp_path / "the first")
    result = run(second, engine, "clean", *words, **variables)
    assert engine.changes == []
    assert result.returncode == 2, result.stdout + result.stderr


@pytest.mark.programs
def test_a_reading_verb_says_whose_cluster_it_is(engine: FakeEngine, tmp_path: Path, second: Path) -> None:
    marked(engine, tmp_path / "the first")
    result = run(second, engine, "volumes_list")
    assert f"belongs to the checkout {tmp_path / 'the first'}" in result.stdout + result.stderr
    assert engine.changes == []


@pytest.mark.programs
def test_what_a_gone_checkout_left_is_taken_over_when_that_is_said(
    engine: FakeEngine, tmp_path: Path, second: Path
) -> None:
    marked(engine, tmp_path / "the first")
    assert run(second, engine, "clean", goud_adopt=True).returncode == 2, "the first one is still there"
    shutil.rmtree(tmp_path / "the first")
    refused = run(second, engine, "clean")
    assert refused.returncode == 2
    assert "-e goud_adopt=true" in refused.stdout
    assert engine.changes == []
    result = run(second, engine, "clean", goud_adopt=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert engine.changes == ["DELETE /volumes/node1_data", "DELETE /volumes/goud-local-owner"]


@pytest.mark.programs
def test_a_start_marks_what_an_earlier_release_deployed(engine: FakeEngine, second: Path) -> None:
    unmarked(engine, second)
    run(second, engine, "start")  # which ends red, as this engine starts nothing
    assert engine.volumes["goud-local-owner"]["Labels"] == goud_owner.mark_labels(CLUSTER, checkout(second))


@pytest.mark.programs
def test_an_engine_that_does_not_answer_is_no_empty_one(engine: FakeEngine, second: Path) -> None:
    engine.socket.unlink()
    result = run(second, engine, "clean")
    assert result.returncode == 2
    assert "does not say whose cluster is on it" in result.stdout


@pytest.mark.programs
@pytest.mark.parametrize(
    ("parts", "rows"),
    [
        (["node1"], ["goud-chain/node:old", "none"]),
        ([], ["none", "goud-chain/node:b, goud-chain/node:old (may be needed by other)"]),
    ],
)
def test_prune_keeps_what_another_cluster_may_start_with(
    engine: FakeEngine, tmp_path: Path, second: Path, parts: list[str], rows: list[str]
) -> None:
    for volume in other_cluster(tmp_path / "the first", *parts):
        engine.volume(volume["Name"], **volume["Labels"])
    names = {"sha256:node1-current": "goud-chain/node:b", "sha256:old": "goud-chain/node:old"}
    engine.images = [{"Id": identity, "RepoTags": [name]} for identity, name in names.items()]
    result = run(second, engine, "prune", prune_confirm=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (report,) = [json.loads(path.read_text()) for path in (second / "reports").glob("prune-*.json")]
    plan = {row["what"]: row["names"] for row in report["reports"][0]["rows"]}
    assert [plan["unused images"], plan["kept images"]] == rows
