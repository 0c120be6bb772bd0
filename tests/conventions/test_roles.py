"""Roles say what they take, once, and defaults agree with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import documentation
import goud_variables

ROOT = documentation.ROOT
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())


def options(role: str) -> dict[str, dict[str, Any]]:
    """Every option of every entry point; the same name means the same thing everywhere in a role."""
    content = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())
    found: dict[str, dict[str, Any]] = {}
    for entry in content["argument_specs"].values():
        for name, option in (entry.get("options") or {}).items():
            assert found.setdefault(name, option) == option, f"{role}: {name} is specified in two ways"
    return found


def defaults(role: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "roles" / role / "defaults/main.yml").read_text()) or {})


@pytest.mark.parametrize("role", ROLES)
def test_specs_equal_defaults(role: str) -> None:
    specified = {name: option["default"] for name, option in options(role).items() if "default" in option}
    assert specified == defaults(role)


@pytest.mark.parametrize("role", ROLES)
def test_options_without_default_are_required_or_say_what_their_absence_means(role: str) -> None:
    for name, option in options(role).items():
        if "default" not in option and not option.get("required"):
            text = str(option["description"]).lower()
            assert any(word in text for word in ("default", "empty", "absent", "unset", "without")), name


WRITERS = {"copy", "template", "file", "get_url", "assemble", "lineinfile", "blockinfile", "unarchive", "replace"}
WRITERS |= {"openssl_privatekey", "openssh_keypair"}
FOLDERS = [ROOT / "roles" / role / "tasks" for role in ROLES] + [ROOT / "ansible/tasks", ROOT / "ansible/playbooks"]


def without_mode(node: Any) -> list[str]:
    """The tasks that leave it to the umask who may read what they write."""
    if isinstance(node, list):
        return [name for item in node for name in without_mode(item)]
    if not isinstance(node, dict):
        return []
    names = [name for value in node.values() for name in without_mode(value)]
    for word, arguments in node.items():
        if str(word).rpartition(".")[2] in WRITERS and isinstance(arguments, dict):
            nothing_made = arguments.get("state", "file") in {"absent", "link"}
            names += [] if "mode" in arguments or nothing_made else [str(node.get("name", word))]
    return names


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_what_is_written_has_a_mode(folder: Path) -> None:
    assert not [name for path in folder.glob("*.yml") for name in without_mode(goud_variables.read_yaml(path))]


def test_a_missing_mode_is_seen() -> None:
    copy = {"name": "Write", "ansible.builtin.copy": {"content": "", "dest": "x"}}
    folder = {"name": "Make", "file": {"path": "x", "state": "directory"}}
    assert without_mode([{"block": [copy]}, folder]) == ["Write", "Make"]


# The same for every host of a play: a title is made for the first of them and stands for all.
SHARED = {"container_image_component", "chain_backup_verify", "chain_drill_backup", "chain_restore_fork_height"}
SHARED |= {"cloud_disk_name"}


def titles(node: Any) -> list[str]:
    """The names of plays, blocks and tasks."""
    if isinstance(node, list):
        return [name for item in node for name in titles(item)]
    if not isinstance(node, dict):
        return []
    inner = [name for key in ("block", "rescue", "always", "tasks", "handlers") for name in titles(node.get(key))]
    return [str(node.get("name", "")), *inner]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_title_is_true_for_every_host(folder: Path) -> None:
    names = [name for path in folder.glob("*.yml") for name in titles(goud_variables.read_yaml(path))]
    variables = {name: re.findall(r"{{\s*(\w+)", name) for name in names if "{{" in name}
    wrong = {
        name for name, used in variables.items() for word in used if word not in SHARED and "_provider" not in word
    }
    assert not wrong


@pytest.mark.parametrize("role", ROLES)
def test_names_carry_the_role(role: str) -> None:
    assert all(name.startswith(f"{role}_") for name in options(role))
    for path in (ROOT / "roles" / role / "vars").glob("*.yml"):
        names = goud_variables.read_yaml(path)
        assert all(name.startswith((f"{role}_", f"_{role}_")) for name in names), path


@pytest.mark.parametrize("role", ROLES)
def test_every_task_file_used_from_outside_has_a_specification(role: str) -> None:
    """`tasks_from: x` is validated only when the specification has an entry point x."""
    specified = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())["argument_specs"]
    assert (ROOT / "roles" / role / "tasks/main.yml").exists()
    assert "main" in specified
    for path in playbook_files():
        for used, entry in calls(yaml.safe_load(path.read_text())):
            if used == role:
                assert entry in specified, (
                    f"{path}: {role} is called with tasks_from {entry}, which has no specification"
                )


def playbook_files() -> list[Path]:
    return sorted(
        path for folder in ("playbooks", "tasks") for path in (ROOT / "ansible" / folder).glob("*.yml")
        if not path.name.endswith(".meta.yml")
    )  # fmt: skip


def calls(node: Any) -> list[tuple[str, str]]:
    """Every (role, entry point) that a playbook calls, however deep."""
    found: list[tuple[str, str]] = []
    if isinstance(node, list):
        for item in node:
            found += calls(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if str(key).rsplit(".", 1)[-1] in {"include_role", "import_role"} and isinstance(value, dict):
                found.append((str(value["name"]), str(value.get("tasks_from", "main")).removesuffix(".yml")))
            elif key == "roles":
                names = [item.get("role", item.get("name")) if isinstance(item, dict) else item for item in value]
                found += [(str(name), "main") for name in names]
            else:
                found += calls(value)
    return found


def test_roles_know_no_inventory_groups() -> None:
    groups = ("chain_nodes", "coordination_hosts", "groups[", "groups.")
    for path in (ROOT / "roles").rglob("*"):
        if path.suffix in {".yml", ".j2"} and "meta" not in path.parts:
            text = path.read_text()
            assert not any(group in text for group in groups), f"{path} names an inventory group"
