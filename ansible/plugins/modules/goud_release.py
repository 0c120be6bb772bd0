"""Write a release: a directory of configuration and secrets that is named by its content and never edited."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: goud_release
short_description: Write a directory of configuration and secrets in one step
description:
  - One call instead of one per file; a file appears whole or not at all. Check mode and diff are supported.
options:
  path:
    description: The release's directory, C(<home>/releases/<name>); missing parents are made.
    type: path
    required: true
  owner: {description: User id of the directories and files., type: int, required: true}
  group: {description: Group id of the directories and files., type: int, required: true}
  documents: {description: "File name to text, mode 0640; differences are shown.", type: dict, default: {}}
  secrets: {description: "File name to text, mode 0600; differences are not shown.", type: dict, default: {}}
author: [Goud Chain]
"""

EXAMPLES = r"""
- name: Write the release
  goud_release:
    path: /var/lib/goud/node1/releases/0123456789ab
    owner: 10001
    group: 10001
    documents: {peers.json: "[]"}
    secrets: {node.key: "{{ key }}"}
"""

RETURN = r"""
files:
  description: Names of the files that were written or corrected.
  returned: always
  type: list
"""

DIRECTORY_MODE = 0o750
DOCUMENT_MODE = 0o640
SECRET_MODE = 0o600


def fits(path: Path, mode: int, owner: int, group: int) -> bool:
    """Whether mode and owner are what they should be."""
    status = path.stat()
    return (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (mode, owner, group)


def settle(path: Path, mode: int, owner: int, group: int) -> None:
    """Give a path its owner and mode; owner first, because changing it may clear mode bits."""
    os.chown(path, owner, group)
    path.chmod(mode)


def missing_directories(path: Path) -> list[Path]:
    """The directory and its parents that do not exist, outermost first."""
    return [folder for folder in reversed([path, *path.parents]) if not folder.exists()]


def make_directory(path: Path) -> None:
    """Make a directory that everybody may pass through, whatever the umask.

    Hosts that share a machine may make what is above their homes at the same moment: whose it is then is theirs to say.
    """
    try:
        path.mkdir()
    except FileExistsError:
        return
    path.chmod(0o755)


def write(path: Path, text: str, mode: int, owner: int, group: int) -> None:
    """Replace a file in one step; it is never readable by others meanwhile."""
    part = path.with_name(f".{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, SECRET_MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    settle(part, mode, owner, group)
    part.replace(path)


def differing(folder: Path, texts: Mapping[str, str], mode: int, owner: int, group: int) -> list[str]:
    """Names of the files whose text, mode or owner is not as asked."""

    def same(name: str, text: str) -> bool:
        file = folder / name
        return file.is_file() and fits(file, mode, owner, group) and file.read_text(encoding="utf-8") == text

    return [name for name, text in texts.items() if not same(name, text)]


def difference(folder: Path, name: str, text: str) -> dict[str, str]:
    """Before and after of one document."""
    file = folder / name
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    return {"before": before, "after": text, "before_header": str(file), "after_header": str(file)}


def apply(parameters: Mapping[str, Any], *, check: bool) -> dict[str, Any]:
    """Bring the directory to what is asked; with `check` only tell. Raises OSError."""
    folder, owner, group = Path(parameters["path"]), int(parameters["owner"]), int(parameters["group"])
    texts = {name: str(text) for name, text in parameters["documents"].items()}
    hidden = {name: str(text) for name, text in parameters["secrets"].items()}
    absent = missing_directories(folder)
    own = {folder, *list(folder.parents)[:2]}  # the release, releases/, and the home that holds it: not what is above
    documents = differing(folder, texts, DOCUMENT_MODE, owner, group)
    secrets = differing(folder, hidden, SECRET_MODE, owner, group)
    wrong = folder.exists() and not fits(folder, DIRECTORY_MODE, owner, group)
    diff = [difference(folder, name, texts[name]) for name in documents]
    if not check:
        for directory in absent:
            make_directory(directory)
            if directory in own:
                settle(directory, DIRECTORY_MODE, owner, group)
        if wrong:
            settle(folder, DIRECTORY_MODE, owner, group)
        for name in documents:
            write(folder / name, texts[name], DOCUMENT_MODE, owner, group)
        for name in secrets:
            write(folder / name, hidden[name], SECRET_MODE, owner, group)
    changed = bool(absent or wrong or documents or secrets)
    return {"changed": changed, "files": sorted([*documents, *secrets]), "diff": diff}


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "owner": {"type": "int", "required": True},
            "group": {"type": "int", "required": True},
            "documents": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    try:
        result = apply(module.params, check=module.check_mode)
    except OSError as error:
        module.fail_json(msg=f"Cannot write the release {module.params['path']}: {error}. Is it another account's?")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
