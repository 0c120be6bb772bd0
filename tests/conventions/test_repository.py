"""Rules for every file: size, names, lint, pins."""

from __future__ import annotations

import getpass
import json
import re
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import documentation

ROOT = documentation.ROOT
BINARY = (".whl", ".xz")
FILES = [name for name in documentation.tracked() if not name.endswith(BINARY)]
BIN = Path(sys.executable).parent


def texts(*suffixes: str) -> list[tuple[str, str]]:
    return [
        (name, (ROOT / name).read_text(encoding="utf-8")) for name in FILES if not suffixes or name.endswith(suffixes)
    ]


def test_generated_documentation_is_up_to_date() -> None:
    done = subprocess.run([ROOT / "scripts/docs", "--check"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_module_is_over_400_lines() -> None:
    long = {name: count for name, text in texts(".py") if (count := text.count("\n")) > 400}
    assert not long


# Assembled here, so that this file does not name what it forbids.
FORBIDDEN = [
    "/" + "work" + "/",
    "/" + "root" + "/",
    "debian" + r"\.org",
    "pypi" + r"\.org",
    "python" + r"hosted\.org",
    "ubuntu" + r"\.com",
]


def test_no_file_names_a_machine_or_a_mirror() -> None:
    own = [re.escape(socket.gethostname())] if len(socket.gethostname()) > 5 else []
    user = getpass.getuser()
    home = [re.escape(f"/home/{user}")] if user != "root" else []
    pattern = re.compile("|".join([*FORBIDDEN, *own, *home]))
    found = [f"{name}: {match[0]}" for name, text in texts() for match in pattern.finditer(text)]
    assert not found


def test_nothing_ignores_errors() -> None:
    word = "ignore" + "_errors"
    found = [name for name, text in texts(".yml", ".yaml") if re.search(rf"^\s*{word}:", text, re.MULTILINE)]
    assert not found


def test_exceptions_from_the_tools_give_a_reason() -> None:
    pattern = re.compile(
        r"#\s*(?:noqa(?::\s*[A-Z0-9, ]+)?|type:\s*ignore(?:\[[\w, -]+\])?)(?P<reason>.*)$", re.MULTILINE
    )
    found = [
        f"{name}: {match[0]}" for name, text in texts(".py") if name != "tests/conventions/test_repository.py"
        for match in pattern.finditer(text) if len(match["reason"].strip(" #-")) < 8
    ]  # fmt: skip
    assert not found


def test_imports_go_downwards() -> None:
    done = subprocess.run([BIN / "lint-imports"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def shell_scripts() -> list[str]:
    return [
        name for name, text in texts() if name.endswith(".sh") or re.match(r"#!.*\b(ba)?sh$", text.split("\n", 1)[0])
    ]


def test_shell_scripts_are_found() -> None:
    assert {"run", "scripts/bootstrap", ".ci/run"} <= set(shell_scripts())


@pytest.mark.parametrize("name", shell_scripts())
def test_shell_script(name: str) -> None:
    done = subprocess.run([BIN / "shellcheck", name], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^set -e?uo? ?", (ROOT / name).read_text(), re.MULTILINE), f"{name} has no 'set -euo pipefail'"


def test_collections_are_those_of_the_locked_package() -> None:
    wanted = yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]
    assert wanted
    base = Path(str(metadata.distribution("ansible").locate_file("ansible_collections")))
    for collection in wanted:
        namespace, name = collection["name"].split(".")
        manifest = json.loads((base / namespace / name / "MANIFEST.json").read_text())
        assert collection["version"] == manifest["collection_info"]["version"], collection["name"]


def test_every_collection_in_use_is_pinned() -> None:
    pinned = {item["name"] for item in yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]}
    used = {
        match[1]
        for name, text in texts(".yml")
        if name.startswith(("roles/", "ansible/", "molecule/"))
        for match in re.finditer(r"^\s*(?:- )?([a-z]+\.[a-z]+)\.[a-z_0-9]+:", text, re.MULTILINE)
    }
    assert used - pinned - {"ansible.builtin"} == set()


def test_the_lock_is_complete_and_names_no_index() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"^--|https?://|file:", lock, re.MULTILINE)
    blocks = re.findall(r"^[A-Za-z0-9._\[\],-]+==.*(?:\n    --hash=sha256:[0-9a-f]{64}.*)*", lock, re.MULTILINE)
    assert len(blocks) > 50
    assert all("--hash=sha256:" in block for block in blocks)


DEPLOYED = [name for name in FILES if name.endswith("Dockerfile") and not name.startswith("sandbox/")]
"""The sandbox's own is a machine that boots systemd as root; nobody deploys it."""


@pytest.mark.parametrize("name", DEPLOYED)
def test_dockerfiles_work_with_every_builder(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "--mount" not in text
    assert "ARG BASE=" in text
    assert re.search(r"^USER \d+:\d+$", text, re.MULTILINE), f"{name} runs as root"


def test_every_lint_exclusion_is_generated_or_not_ansible() -> None:
    configuration = yaml.safe_load((ROOT / ".ansible-lint").read_text())
    assert configuration["profile"] == "production"
    assert not configuration.get("skip_list")
    assert not configuration.get("warn_list")
