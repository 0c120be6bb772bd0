"""Generate documentation from what it documents, so that it cannot drift: argument specs, the tree, the settings."""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
NOT_VERBS = {"requirements.yml"}

# Folders have no place for a sentence about themselves; files and packages speak for themselves.
FOLDERS = {
    ".ci": "what a change must pass",
    ".config": "molecule's shared base",
    "ansible/playbooks": "a playbook and its arguments (`<verb>.meta.yml`) per verb; `boilerplate.yml` comes first",
    "ansible/plugins": "callback, action plugins, filters, modules, and the plain functions behind them",
    "ansible/tasks": "task files that several verbs share, one job each",
    "docs": "architecture, the format of backups, the settings of a node, the metrics of backups",
    "docs/decisions": "why it is so, and what would change it",
    "docs/runbooks": "one page per verb",
    "inventories/aws": "machines at Amazon, by their tags",
    "inventories/gcp": "machines at Google Cloud, by their labels",
    "inventories/local": "this machine: three nodes, three etcd members, one load balancer",
    "molecule": "scenarios that test the roles",
    "node": "the Python distribution: sources, tests, Dockerfile",
    "node/tests": "unit tests, the protocol model, tests against real etcd",
    "sandbox": "a cloud in a box: Google's and Amazon's APIs on loopback, machines with systemd, disks as devices",
    "sandbox/tests": "its semantics, and the real modules against it",
    "tests/cloud": "a cluster on machines of the sandbox, at each provider",
    "tests/conventions": "what this repository promises of itself",
    "tests/e2e": "the cluster in Docker, under faults",
    "tests/fixtures": "what clusters of earlier releases left behind: later ones must read it and carry it on",
    "tests/plugins": "unit tests of the Ansible plugins and of the scripts",
    "tests/support": "what tests and benchmark share",
    "tests/world": "the cluster of the tests, beside the operator's: an inventory with names and ports of its own",
}


class DocumentationError(Exception):
    """Something that must be documented is not; the text names it."""


# -- reading the tree --------------------------------------------------------------------------------------------------


def tracked(root: Path = ROOT) -> list[str]:
    """Return every file of the repository, also new ones, without what is ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    return sorted({name for name in result.stdout.splitlines() if (root / name).is_file()})


def sentence(path: Path) -> str:
    """Return the first line that a file says about itself: its docstring, or its first comment."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        docstring = ast.get_docstring(ast.parse(text)) or ""
        first = docstring.splitlines()[0] if docstring else ""
    else:
        comments = (line.removeprefix("#").strip() for line in text.splitlines() if re.match(r"#(?!!)", line))
        first = next((line for line in comments if line and not line.startswith("Usage")), "")
    if not first:
        raise DocumentationError(f"{path}: says nothing about itself in its first line (docstring or comment)")
    return first.rstrip(".")


def verbs(root: Path = ROOT) -> list[str]:
    """Return the root playbooks, in the order of their names."""
    return sorted(path.name for path in root.glob("*.yml") if path.name not in NOT_VERBS)


def layout(root: Path = ROOT) -> str:
    """Return the table of what is where."""
    files = tracked(root)
    rows = [("`run`", sentence(root / "run"))]
    rows += [(f"`{verb}`", sentence(root / verb)) for verb in verbs(root)]
    rows += [(f"`{folder}/`", text) for folder, text in FOLDERS.items() if _is_used(folder, files)]
    rows += [(f"`roles/{role}/`", _about(root, role)["description"]) for role in roles(root)]
    rows += [
        (f"`node/src/{package}/{path.name}{'/' if path.is_dir() else ''}`", sentence(_module(path)))
        for package in ("goud_backup", "goud_node")
        for path in sorted((root / "node/src" / package).iterdir())
        if (path / "__init__.py").exists() or (path.suffix == ".py" and path.name != "__init__.py")
    ]
    rows += [
        (f"`{name}`", sentence(root / name))
        for name in files
        if re.fullmatch(r"scripts/[^/]+", name) and Path(name).suffix in {"", ".py", ".sh"}
    ]
    _complain_about_unknown_folders(files)
    return _table(("path", "what"), rows)


def _module(path: Path) -> Path:
    return path / "__init__.py" if path.is_dir() else path


def _is_used(folder: str, files: Sequence[str]) -> bool:
    return any(name.startswith(f"{folder}/") for name in files)


def _complain_about_unknown_folders(files: Sequence[str]) -> None:
    prefixes = ("roles/", "scripts/", "node/src/")
    for name in files:
        if "/" not in name or name.startswith(prefixes):
            continue
        parents = [str(parent) for parent in Path(name).parents][:-1]
        if not any(parent in FOLDERS for parent in parents):
            raise DocumentationError(f"{name}: its folder has no sentence in scripts/documentation.py (FOLDERS)")


# -- roles -------------------------------------------------------------------------------------------------------------


def roles(root: Path = ROOT) -> list[str]:
    """Return the roles' names."""
    return sorted(path.parents[1].name for path in root.glob("roles/*/tasks/main.yml"))


def _about(root: Path, role: str) -> dict[str, str]:
    path = root / "roles" / role / "meta/main.yml"
    information = yaml.safe_load(path.read_text(encoding="utf-8"))["galaxy_info"] if path.exists() else {}
    if not information.get("description"):
        raise DocumentationError(f"roles/{role}/meta/main.yml: galaxy_info has no description")
    return dict(information)


def role_tables(root: Path, role: str) -> str:
    """Return what each entry point does, and the variables; entry points that take the same ones share a table."""
    path = root / "roles" / role / "meta/argument_specs.yml"
    if not path.exists():
        raise DocumentationError(f"roles/{role} has no meta/argument_specs.yml")
    groups: dict[tuple[tuple[str, str, str, str], ...], list[str]] = {}
    for entry, specification in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].items():
        rows = tuple(_variables(specification.get("options") or {}))
        about = " ".join(_paragraphs(specification.get("description")))
        line = f"- `{entry}`: {specification['short_description']}. {about}"
        groups.setdefault(rows, []).append(line.rstrip())
    return "\n\n".join(part for rows, lines in groups.items() for part in ("\n".join(lines), _variable_table(rows)))


def _variable_table(rows: Sequence[Sequence[str]]) -> str:
    return _table(("variable", "type", "default", "meaning"), rows) if rows else "No variables."


def _paragraphs(text: Any) -> list[str]:
    lines = text if isinstance(text, list) else [text] if text else []
    return [_markup(str(line)) for line in lines]


def _variables(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    for name, option in options.items():
        kind = str(option.get("type", "str"))
        if "elements" in option:
            kind += f" of {option['elements']}"
        default = "**required**" if option.get("required") else _default(option)
        meaning = " ".join(_paragraphs(option["description"]))
        if "choices" in option:
            meaning += f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}."
        yield f"`{prefix}{name}`", kind, default, meaning
        yield from _variables(option.get("options") or {}, f"{prefix}{name}.")


def _default(option: Mapping[str, Any]) -> str:
    if "default" not in option:
        return "-"
    value = option["default"]
    return f"`{value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)}`"


def _markup(text: str) -> str:
    return re.sub(r"[CVOI]\(([^)]*)\)", r"`\1`", text.strip())


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


# -- settings ----------------------------------------------------------------------------------------------------------


def settings_page() -> str:
    """Return the page of the node's settings, from the class that reads them."""
    from goud_node.settings import Settings  # noqa: PLC0415 - only this part needs the node's packages

    prefix = str(Settings.model_config.get("env_prefix", ""))
    rows = []
    for name, field in Settings.model_fields.items():
        if not field.description:
            raise DocumentationError(f"the setting {name} has no description")
        default = "**required**" if field.is_required() else f"`{field.get_default(call_default_factory=True)}`"
        rows.append((f"`{prefix}{name}`".upper(), default, field.description))
    origin = "Each is an environment variable; `scripts/docs` reads them from `goud_node.settings`."
    head = f"# Settings of a node\n\n{origin}\n"
    return f"{head}\n{_table(('variable', 'default', 'meaning'), rows)}\n"


def metrics_page() -> str:
    """Return the page of the backup engine's metrics, from the module that writes them."""
    from goud_backup import metrics  # noqa: PLC0415 - only this part needs the node's packages

    origin = (
        "With `--metrics-dir` or `GOUD_BACKUP_METRICS_DIR`, `create`, `ship`, `prune`, `verify` and `drill` each write "
        "`goud_backup_<verb>.prom` for the textfile collector of Prometheus' node exporter, however they end. Every "
        "metric is a gauge with the label `verb`; `scripts/docs` reads them from `goud_backup.metrics`."
    )
    use = (
        "Several hosts write these files, and one of them works at a time: look at the greatest value of all hosts, as "
        'in `time() - max(goud_backup_last_success_timestamp_seconds{verb="ship"})`. On a chain that nobody writes to, '
        "the recovery point is as old as its last block although nothing is missing. A block that a wrong clock "
        "stamped ahead counts as of the run that stored it or looked at it."
    )
    rows = [(f"`{name}`", text) for name, text in metrics.document()]
    return f"# Metrics of the backup engine\n\n{origin}\n\n{_table(('metric', 'meaning'), rows)}\n\n{use}\n"


# -- writing -----------------------------------------------------------------------------------------------------------


def between(text: str, marker: str, content: str, name: str) -> str:
    """Replace what stands between `<!-- marker:begin -->` and `<!-- marker:end -->`."""
    pattern = re.compile(rf"(<!-- {marker}:begin -->\n).*?(<!-- {marker}:end -->)", re.DOTALL)
    if not pattern.search(text):
        raise DocumentationError(f"{name} lacks the markers <!-- {marker}:begin --> and <!-- {marker}:end -->")
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text, count=1)


def generated(root: Path = ROOT) -> dict[Path, str]:
    """Return every file with generated parts, as it should be."""
    readme = root / "README.md"
    pages = {readme: between(readme.read_text(encoding="utf-8"), "layout", layout(root), "README.md")}
    for role in roles(root):
        path = root / "roles" / role / "README.md"
        about = _about(root, role)["description"]
        empty = f"# {role}\n\n{about}.\n\n## Variables\n\n<!-- variables:begin -->\n<!-- variables:end -->\n"
        text = path.read_text(encoding="utf-8") if path.exists() else empty
        pages[path] = between(text, "variables", role_tables(root, role), str(path.relative_to(root)))
    pages[root / "docs/settings.md"] = settings_page()
    pages[root / "docs/backup-metrics.md"] = metrics_page()
    return pages


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Write the generated parts of the documentation.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail when something is out of date")
    options = parser.parse_args(arguments)
    try:
        pages = generated()
    except DocumentationError as error:
        print(f"docs: {error}", file=sys.stderr)
        return 1
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"docs: {path.relative_to(ROOT)} {'is out of date: run scripts/docs' if options.check else 'written'}")
        if not options.check:
            path.write_text(pages[path], encoding="utf-8")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
