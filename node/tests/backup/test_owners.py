"""Root works in a volume, under any umask; the node, and whoever runs as its account, goes on there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from goud_backup.source import held
from goud_node.store import durable

from .owners import UMASKS, WRITERS


def test_what_root_writes_is_the_nodes() -> None:
    """Every writer of a data directory, by every umask: the files are the node's, and no umask shows in them."""
    program = "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
    program += "from backup.owners import main; main(Path(sys.argv[1]))"
    tests = Path(__file__).parents[1]
    # Not below the test's own folder, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="goud-owners-") as folder:
        root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        done = subprocess.run(
            [*root, sys.executable, "-c", program, folder, str(tests)],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"this test needs root, or sudo without a password: {done.stderr}"
        if root:
            subprocess.run([*root, "rm", "-r", "--", folder], check=True)
            Path(folder).mkdir()
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(WRITERS) * len(UMASKS)
    problems = {f"{line['writer']}, umask {line['umask']:03o}": line["problems"] for line in lines if line["problems"]}
    assert not problems, json.dumps(problems, indent=1)
    for name in WRITERS:
        first, *others = [line["modes"] for line in lines if line["writer"] == name]
        for other in others:
            assert other == first, name


def test_a_lock_is_not_given_up_by_a_look_at_its_file(data: Path) -> None:
    """Closing any descriptor of a file gives up this process's locks on it."""
    try_it = (
        "import sys; from pathlib import Path; from goud_backup.source import held\nwith held(Path(sys.argv[1])): pass"
    )
    with held(data / "rocksdb"):
        durable.adopt_all(data / "rocksdb", data)
        other = subprocess.run([sys.executable, "-c", try_it, str(data / "rocksdb")], capture_output=True, check=False)
        assert b"InUse" in other.stderr


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A volume's account could have made them: root would give away whatever they lead to."""
    outside = tmp_path / "outside"
    outside.write_text("")
    outside.chmod(0o640)
    (tmp_path / "volume").mkdir(mode=0o755)
    (tmp_path / "volume/link").symlink_to(outside)
    durable.adopt_all(tmp_path / "volume")
    assert outside.stat().st_mode & 0o777 == 0o640
