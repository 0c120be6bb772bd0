"""Refuse a run that cannot mean what was asked: wrong core, groups or limit, unknown or ill-typed variables."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.inventory.manager import split_host_pattern
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader
from ansible.release import __version__ as core_version
from ansible.utils.vars import load_extra_vars

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))
import goud_lock
import goud_reach
import goud_variables

_ARGUMENTS = {"groups", "lock", "minimum_core", "meta", "needs", "removed"}


class ActionModule(ActionBase):
    """`goud_boilerplate: {groups: [...], minimum_core: "2.19"}`; runs on the controller, also in check mode.

    Optional: `lock`, a file that this run holds until its end, so that no second changing run meets it; `meta`, a list
    of the verbs' meta files (default: all beside the playbooks); `needs`, in a play of `localhost:all`, the hosts and
    groups that a --limit may not leave out, besides localhost; `removed`, a file that maps removed variables to what
    replaces them (default: removed_variables.yml beside the playbooks).
    """

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return every problem at once: fixing them one run at a time would be tiresome."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = self._task.args
        problems = [f"unknown argument '{name}' of goud_boilerplate" for name in sorted(set(arguments) - _ARGUMENTS)]
        problem = goud_variables.core_problem(core_version, str(arguments.get("minimum_core", "2.19")))
        problems += [problem] if problem else []
        problems += self._empty_groups(list(arguments.get("groups", [])), variables)
        if "needs" in arguments and variables.get("ansible_limit"):
            problems += self._limit(str(variables["ansible_limit"]), arguments, variables)
        try:
            problems += self._variables(arguments, variables)
        except (OSError, goud_variables.SpecificationError) as error:
            problems.append(str(error))
        if not problems and arguments.get("lock") and not self._task.check_mode:
            problems += self._lock(Path(str(arguments["lock"])), variables)
        if problems:
            return {"failed": True, "changed": False, "msg": "\n".join(problems), "problems": problems}
        return {"changed": False}

    @staticmethod
    def _lock(path: Path, variables: Mapping[str, Any]) -> list[str]:
        verb = Path(str(variables.get("ansible_play_name", "a run"))).stem
        other = goud_lock.take(path, verb, os.getppid())  # the playbook's own process; tasks run in its children
        if other is None:
            return []
        problem = (
            f"another run is changing this environment since {other['since']} (process {other['pid']}, {path}): "
            "wait for it, or end it first; two at once would undo each other's work. Nothing was changed"
        )
        return [problem]

    @staticmethod
    def _empty_groups(groups: list[str], variables: Mapping[str, Any]) -> list[str]:
        inventory = variables.get("groups", {})
        source = ", ".join(str(item) for item in variables.get("ansible_inventory_sources") or ["none given"])
        return [
            f"the inventory ({source}) has no host in the group '{group}': name one with -i inventories/<environment>"
            for group in groups
            if not inventory.get(group)
        ]

    def _limit(self, limit: str, arguments: Mapping[str, Any], variables: Mapping[str, Any]) -> list[str]:
        hostnames = lookup_loader.get("ansible.builtin.inventory_hostnames", loader=self._loader, templar=self._templar)
        words = [word.lstrip("!&") for word in split_host_pattern(limit) if not word.startswith("@")]
        return [
            f"of --limit {limit}, '{word}' matches no host: correct it. Nothing was touched"
            for word in words
            if word not in constants.LOCALHOST and not hostnames.run([word], variables=variables)
        ] or goud_reach.problems(
            limit,
            variables["ansible_play_hosts_all"],
            arguments["needs"],
            arguments.get("groups", []),
            variables["groups"],
        )

    def _variables(self, arguments: Mapping[str, Any], variables: Mapping[str, Any]) -> list[str]:
        root = Path(constants.CONFIG_FILE).parent if constants.CONFIG_FILE else Path.cwd()
        playbooks = root / "ansible" / "playbooks"
        metas = [root / str(path) for path in arguments.get("meta", [])] or sorted(playbooks.glob("*.meta.yml"))
        removed_file = (
            root / str(arguments["removed"]) if "removed" in arguments else playbooks / "removed_variables.yml"
        )
        removed = goud_variables.read_yaml(removed_file) if "removed" in arguments or removed_file.exists() else {}
        catalogue = goud_variables.known_variables(root / "roles", metas)
        extra = load_extra_vars(self._loader)
        return [
            *goud_variables.unknown_extra(extra, catalogue, removed),
            *goud_variables.described_extra(extra),
            *goud_variables.unknown_inventory(_inventory_names(variables) - set(extra), catalogue, removed),
            *goud_variables.wrong_values(
                {name: self._templar.template(value) for name, value in extra.items()}, catalogue
            ),
        ]


def _inventory_names(variables: Mapping[str, Any]) -> set[str]:
    """Return the names of all hosts' variables that come from the inventory, not from a task of this run."""
    hostvars = variables["hostvars"]
    facts = hostvars._variable_manager._nonpersistent_fact_cache  # the core has no public way to tell facts apart
    names: set[str] = set()
    for host in variables.get("groups", {}).get("all", []):
        names |= set(hostvars.raw_get(host)) - set(facts.get(host, {}))
    return {name for name in names if not name.startswith(("_", "ansible_"))}
