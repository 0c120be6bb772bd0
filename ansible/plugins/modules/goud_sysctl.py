"""Set kernel settings and read each one back; what the kernel refuses is told, never passed over."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: goud_sysctl
short_description: Set kernel settings and read each one back
description:
  - Writes only what differs. Fails with one sentence for every setting that is not in force afterwards, unless it is
    optional; those are returned as C(refused). The file for the next boot is somebody else's job.
options:
  settings: {description: Values by their dotted names., type: dict, required: true}
  optional: {description: Names that the kernel may refuse., type: list, elements: str, default: []}
"""


def value_of(key: str, root: Path) -> str | None:
    """Return a setting as the kernel has it, one blank between its parts; None when there is no such setting."""
    try:
        return normal(path_of(key, root).read_text())
    except OSError:
        return None


def path_of(key: str, root: Path) -> Path:
    """Return a setting's file. A slash in a name stands for a dot in an interface's name, as sysctl has it."""
    return root / key.translate(str.maketrans("./", "/."))


def normal(value: object) -> str:
    """Return a value with one blank between its parts."""
    return re.sub(r"\s+", " ", str(value)).strip()


def write(key: str, value: str, root: Path) -> str | None:
    """Set one value; return why it is not in force, or None."""
    path = path_of(key, root)
    try:
        if not path.exists():
            return f"{key}: this kernel has no such setting"
        path.write_text(f"{value}\n")
    except OSError as error:
        return f"{key} = {value}: the kernel refuses it ({error.strerror})"
    now = value_of(key, root)
    return None if now == value else f"{key} = {value}: the kernel took it and says {now}"


def differing(settings: Mapping[str, object], root: Path) -> dict[str, tuple[str | None, str]]:
    """Return what is not in force: name -> (what is, what should be)."""
    pairs = {key: (value_of(key, root), normal(value)) for key, value in settings.items()}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def apply(
    differences: Mapping[str, tuple[str | None, str]], optional: Collection[str], root: Path
) -> tuple[list[str], list[str], list[str]]:
    """Set what differs; return the names that were set, the refusals that matter, and those that may be."""
    names: list[str] = []
    problems: list[str] = []
    refusals: list[str] = []
    for key, (_, value) in differences.items():
        problem = write(key, value, root)
        if problem is None:
            names.append(key)
        else:
            (refusals if key in optional else problems).append(problem)
    return names, problems, refusals


def plan(
    differences: Mapping[str, tuple[str | None, str]], optional: Collection[str], root: Path
) -> tuple[list[str], list[str], list[str]]:
    """Return what `apply` would, as far as it can be told without writing."""
    missing = [key for key in differences if not path_of(key, root).exists()]
    sentences = {key: f"{key}: this kernel has no such setting" for key in missing}
    problems = [text for key, text in sentences.items() if key not in optional]
    return (
        [key for key in differences if key not in missing],
        problems,
        [sentences[key] for key in missing if key in optional],
    )


def main() -> None:
    """Compare, set, read back."""
    module = AnsibleModule(
        argument_spec={
            "settings": {"type": "dict", "required": True},
            "optional": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    root = Path("/proc/sys")
    optional = module.params["optional"]
    differences = differing(module.params["settings"], root)
    names, problems, refusals = (
        plan(differences, optional, root) if module.check_mode else apply(differences, optional, root)
    )
    lines = [(f"{key} = {differences[key][0]}\n", f"{key} = {differences[key][1]}\n") for key in names]
    diff = {"before": "".join(line[0] for line in lines), "after": "".join(line[1] for line in lines)}
    if problems:
        hint = "correct host_baseline_sysctl, or name what this kernel may refuse in host_baseline_sysctl_optional"
        module.fail_json(msg="\n".join([*problems, hint]), changed=bool(names), refused=refusals, diff=diff)
    module.exit_json(changed=bool(names), refused=refusals, diff=diff)


if __name__ == "__main__":
    main()
