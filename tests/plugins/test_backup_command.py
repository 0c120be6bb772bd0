"""The command that runs the backup engine in a container: whatever a path holds, the engine mounts that path."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.plugins.filter import core, urls
from ansible.plugins.test import core as tests_of_core
from jinja2 import Environment

import documentation
import goud_variables
from goud_backup.targets import open_target

COMMAND = documentation.ROOT / "roles/chain_backup/files/goud-backup.sh"
ENGINE = """#!{python}
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    print(json.dumps(sys.argv[1:]), file=calls)
if os.environ["REFUSED"] in sys.argv[1:3]:
    sys.exit(1)
if sys.argv[1:3] == ["container", "inspect"]:
    print("true")
"""


def mounts(words: list[str]) -> dict[str, str]:
    """Source by target, as the engine's client reads the values of --mount: each is a line of CSV."""
    sources = {}
    for before, word in itertools.pairwise(words):
        if before == "--mount":
            (fields,) = csv.reader([word], strict=True)
            options = dict(field.partition("=")[::2] for field in fields)
            sources[options["target"]] = options["source"]
    return sources


Calls = list[list[str]]


def run(tmp_path: Path, odd: str = "home", refused: str = "nothing", **more: str) -> tuple[int, Calls]:
    """Exit status of the command, and what it asked of the engine, the questions apart."""
    home = tmp_path / odd
    (home / "config").mkdir(parents=True)
    command = Path(shutil.copy(COMMAND, home / "goud-backup"))
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    words = {"container": "node1", "volume": "node1_data", "image": "node", "network": "n", "directory": f"{home}/repo"}
    words |= {"metrics": f"{home}/metrics", "scratch": f"{home}/scratch", "memory": "1g", "cpus": "1", "label": "l=x"}
    words |= {name: value for name, value in more.items() if name.islower()}
    quoted = {name: "'" + value.replace("'", "'\"'\"'") + "'" for name, value in words.items()}
    (home / "config/command").write_text("".join(f"{name}={value}\n" for name, value in quoted.items()))
    engine, calls = tmp_path / "docker", tmp_path / "calls"
    engine.write_text(ENGINE.replace("{python}", sys.executable))
    engine.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "GOUD_BACKUP_INCOMING": f"{home}/incoming"}
    environment |= {"CALLS": str(calls), "REFUSED": refused}
    environment |= {name: value for name, value in more.items() if name.isupper()}
    result = subprocess.run([command, "status"], env=environment, check=False, capture_output=True, text=True)
    requests = [json.loads(line) for line in calls.read_text().splitlines()]
    return result.returncode, [call for call in requests if call[1] != "inspect"]


def word_after(call: list[str], option: str) -> str:
    return call[call.index(option) + 1]


@pytest.mark.parametrize(
    "odd", ["plain", "with space", "a,b", 'a "quote" b', "an 'apostrophe'", "{{ x }}", "ümläut", "$HOME"]
)
def test_every_path_is_mounted_as_it_is(tmp_path: Path, odd: str) -> None:
    home = tmp_path / odd
    status, (created, started) = run(tmp_path, odd)
    assert (status, created[0], started[0]) == (0, "create", "start")
    assert mounts(created) == {
        "/data": "node1_data",
        "/etc/goud-backup": f"{home}/config",
        "/var/cache/goud-backup": f"{home}/cache",
        "/var/lib/goud-backup/reports": f"{home}/reports",
        "/var/lib/goud-backup/metrics": f"{home}/metrics",
        "/var/lib/goud-backup/scratch": f"{home}/scratch",
        f"{home}/repo": f"{home}/repo",
        "/incoming": f"{home}/incoming",
    }


def test_the_network_of_the_peers_is_joined_before_anything_runs(tmp_path: Path) -> None:
    status, (created, joined, started) = run(tmp_path, peer_network="peers")
    name = word_after(created, "--name")
    assert (status, word_after(created, "--network")) == (0, "n")
    assert joined == ["network", "connect", "peers", name]
    assert started == ["start", "--attach", name]


def test_a_key_from_standard_input_lies_in_the_container_only(tmp_path: Path) -> None:
    status, (*_, created, started) = run(tmp_path, GOUD_BACKUP_IDENTITY_FROM_STDIN="true")
    assert (status, started[:3]) == (0, ["start", "--attach", "--interactive"])
    assert "--interactive" in created
    assert word_after(created, "-c").startswith("(umask 077; cat >/tmp/identity); ")


@pytest.mark.parametrize("refused", ["create", "connect"])
def test_a_container_that_cannot_run_is_removed(tmp_path: Path, refused: str) -> None:
    status, calls = run(tmp_path, refused=refused, peer_network="peers")
    assert status != 0
    assert all(call[0] != "start" for call in calls)
    assert calls[-1] == ["rm", "--force", word_after(calls[0], "--name")]


NAMES = ["plain", "with space", "a+b", "{{ x }}", "ümläut", 'a "quote"']


@pytest.mark.parametrize(
    ("odd", "encoded"), [(name, False) for name in NAMES] + [(name, True) for name in [*NAMES, "50 %41", "a?b#c"]]
)
def test_the_directory_that_is_mounted_is_the_one_that_the_engine_reads(odd: str, encoded: bool) -> None:
    jinja = Environment(autoescape=False)  # noqa: S701 - a path, no page
    jinja.filters |= {**urls.FilterModule().filters(), **core.FilterModule().filters()}
    jinja.tests |= tests_of_core.TestModule().tests()
    variables = goud_variables.read_yaml(documentation.ROOT / "roles/chain_backup/vars/main.yml")
    local = goud_variables.read_yaml(documentation.ROOT / "inventories/local/group_vars/chain_nodes.yml")
    if encoded:  # as the inventory does; by hand nobody does, unless a sign means something else in a URL
        url = jinja.from_string(local["chain_backup_repository"]).render(goud_backups_dir=f"/srv/{odd}")
    else:
        url = f"file:///srv/{odd}/repository"
    mounted = jinja.from_string(variables["_chain_backup_directory"]).render(chain_backup_repository=url)
    assert mounted == f"/srv/{odd}/repository"
    assert open_target(url).url == f"file://{mounted}"
