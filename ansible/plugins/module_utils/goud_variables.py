"""Which variables the roles and verbs know, and what is wrong with those that were given.

Pure functions without Ansible (the type check excepted, which is the core's own), used by the action plugin
`goud_boilerplate`, the documentation generator and the conventions tests.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_DESCRIPTIONS = {"goud_engine_shared"}


class SpecificationError(ValueError):
    """A file of argument specifications has no such content."""


@dataclass(frozen=True)
class Catalogue:
    """Every documented variable: its option specification, and where it is documented."""

    options: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, str]
    prefixes: frozenset[str] = field(default_factory=frozenset)


class _Loader(yaml.SafeLoader):
    """Plain YAML, where Ansible's tags (!unsafe, !vault) stand for their text."""


_Loader.add_multi_constructor("!", lambda loader, _suffix, node: loader.construct_scalar(node))


def read_yaml(path: Path) -> Any:
    """Read one YAML document; an empty file is an empty mapping."""
    return yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}  # noqa: S506 - a SafeLoader that knows two tags more


def specifications(path: Path) -> dict[str, dict[str, Any]]:
    """Return entry point -> option -> specification of an `argument_specs` file.

    Raises SpecificationError that names the file when it has no such mapping.
    """
    content = read_yaml(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("argument_specs"), Mapping):
        raise SpecificationError(f"{path}: no mapping 'argument_specs'")
    return {
        str(entry): {str(name): dict(option) for name, option in (spec.get("options") or {}).items()}
        for entry, spec in content["argument_specs"].items()
    }


def known_variables(roles: Path, metas: Iterable[Path]) -> Catalogue:
    """Collect the variables of every role below `roles` and of the verbs' meta files."""
    options: dict[str, Mapping[str, Any]] = {}
    sources: dict[str, str] = {}
    prefixes: set[str] = set()
    for path in sorted(roles.glob("*/meta/argument_specs.yml")):
        role = path.parents[1].name
        prefixes.add(f"{role}_")
        for constants in sorted((path.parents[1] / "vars").glob("*.yml")):
            _add(options, sources, {str(name): {} for name in read_yaml(constants)}, f"role {role}")
        for entry in specifications(path).values():
            _add(options, sources, entry, f"role {role}")
    for path in metas:
        for entry in specifications(path).values():
            _add(options, sources, entry, path.name.removesuffix(".meta.yml"))
    return Catalogue(options, sources, frozenset(prefixes))


def _add(
    options: dict[str, Mapping[str, Any]],
    sources: dict[str, str],
    entries: Mapping[str, Mapping[str, Any]],
    source: str,
) -> None:
    for name, option in entries.items():
        if not options.get(name):
            options[name] = option
            sources[name] = source


def unknown_extra(names: Iterable[str], catalogue: Catalogue, removed: Mapping[str, str]) -> list[str]:
    """Return one sentence for every extra variable that nothing reads."""
    return [
        sentence
        for name in sorted(names)
        if not name.startswith("ansible_") and (sentence := _judge(name, catalogue, removed)) is not None
    ]


def described_extra(names: Iterable[str]) -> list[str]:
    """Return one sentence for every extra variable that only an inventory can say: what its hosts are."""
    return [
        f"the variable '{name}' says what the hosts of the inventory are, and whether a verb asks whose they are: "
        "no run changes that. Leave it out; it belongs into the inventory's group_vars"
        for name in sorted(names)
        if name in _DESCRIPTIONS
    ]


def unknown_inventory(names: Iterable[str], catalogue: Catalogue, removed: Mapping[str, str]) -> list[str]:
    """Return one sentence for every inventory variable that looks like a role's and is not.

    Inventories may hold names of their own; only those with a role's prefix, and removed ones, are judged.
    """
    candidates = (name for name in sorted(names) if name in removed or name.startswith(tuple(catalogue.prefixes)))
    return [sentence for name in candidates if (sentence := _judge(name, catalogue, removed)) is not None]


def _judge(name: str, catalogue: Catalogue, removed: Mapping[str, str]) -> str | None:
    if name in removed:
        return f"the variable '{name}' was removed: {removed[name]}"
    if name in catalogue.options:
        return None
    nearest = difflib.get_close_matches(name, catalogue.options, n=1, cutoff=0.6)
    if nearest:
        return f"unknown variable '{name}': did you mean '{nearest[0]}' ({catalogue.sources[nearest[0]]})?"
    return f"unknown variable '{name}': no role and no verb reads it (see the tables in roles/*/README.md)"


def wrong_values(values: Mapping[str, Any], catalogue: Catalogue) -> list[str]:
    """Return one sentence for every value that does not fit its documented type or choices.

    A text that the type accepts (`-e port=80`) is right: roles convert where they read. Imported late, because the
    generators use this module without Ansible's machinery.
    """
    from ansible.module_utils.common.arg_spec import ArgumentSpecValidator  # noqa: PLC0415 - see above

    problems = []
    for name, value in sorted(values.items()):
        option = catalogue.options.get(name)
        if not option:
            continue
        fields = {"type", "choices", "elements", "options"}
        specification = {key: setting for key, setting in option.items() if key in fields}
        outcome = ArgumentSpecValidator({name: specification}).validate({name: value})
        if outcome.error_messages:
            problems.append(f"the variable '{name}' ({catalogue.sources[name]}): {'; '.join(outcome.error_messages)}")
    return problems


def core_problem(running: str, minimum: str) -> str | None:
    """Return what is wrong with the running ansible-core version, compared number by number."""

    def numbers(version: str) -> Sequence[int]:
        return [int(part) for part in version.split(".")[:2] if part.isdigit()]

    if list(numbers(running)) >= list(numbers(minimum)):
        return None
    return f"ansible-core {running} is too old: at least {minimum} is needed (./run sets up the locked one)"
