"""scripts/bootstrap makes .venv of exactly what is locked, and what was there works until the new one does."""

from __future__ import annotations

import copy
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.cluster import ROOT
from tests.support.package_index import PackageIndex, oldest_pip, package_index, wheel

pytestmark = pytest.mark.programs

LOCKED, NEWER = "1.0", "2.0"
PLACES = ["plain", 'a " quote', "a {{ x }} ü ' b", "$HOME `id`"]
DEAD_PROXY = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
SURROUNDINGS: list[tuple[int, dict[str, str]]] = [
    (0o022, {"LC_ALL": "C"}), (0o027, {"LC_ALL": "POSIX"}), (0o077, {"LANG": "xx_XX.UTF-8"}),
    (0o022, {"LC_ALL": "xx_XX.UTF-8"}), (0o077, {"LC_ALL": "C", **DEAD_PROXY}),
    (0o022, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
]  # fmt: skip
# An interpreter whose new environments begin with the oldest pip.
PYTHON = """#!/bin/sh
for last; do :; done
case "$1 $2" in
"-m venv")
    shift 2
    {real} -m venv --without-pip "$@" && exec {real} -c 'import sys, sysconfig, zipfile
place = sysconfig.get_path("purelib", "venv", {{"base": sys.argv[2], "platbase": sys.argv[2]}})
zipfile.ZipFile(sys.argv[1]).extractall(place)' {pip} "$last" ;;
*) exec {real} "$@" ;;
esac
"""
BACKEND = """import pathlib, shutil
def build_editable(folder, config_settings=None, metadata_directory=None):
    return pathlib.Path(shutil.copy(next(pathlib.Path().glob("*.whl")), folder)).name
"""


class Checkout:
    """As much of a checkout as scripts/bootstrap needs, with a lock of tiny packages."""

    def __init__(self, place: Path, index: PackageIndex) -> None:
        self.place, self.index = place, index
        for folder in ("scripts", "node", "ansible/playbooks", "programs"):
            (place / folder).mkdir(parents=True)
        for script in ("bootstrap", "environment"):
            shutil.copy(ROOT / "scripts" / script, place / "scripts")
        node = wheel("goud-node", "0", requires=("covered[toml]",), sources=str(place))
        (place / "node/goud_node-0-py3-none-any.whl").write_bytes(node)
        (place / "node/backend.py").write_text(BACKEND)
        (place / "node/pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        )
        real = getattr(sys, "_base_executable", sys.executable)
        program = place / "programs/python3"
        program.write_text(PYTHON.format(real=shlex.quote(real), pip=shlex.quote(str(oldest_pip()))))
        program.chmod(0o755)

    def lock(self, version: str = LOCKED) -> None:
        """Lock packages at a version, while the index has newer ones of all.

        The lock names no extra: it is another package that asks for `covered[toml]`.
        """
        lines: list[str] = []
        for served in (version, NEWER):
            lines = [
                self.index.add("ansible", served, requires=("covered[toml]",)),
                self.index.add("covered", served, requires=("tomlish; extra == 'toml'",), extras=("toml",)),
                self.index.add("tomlish", served),
                *lines,
            ]
        (self.place / "requirements.lock").write_text("".join(lines[3:]))

    def make_directory(self) -> None:
        """Make .venv what earlier releases made: a directory. Scripts look for it by its path, so there is a link."""
        environment = (self.place / ".venv").resolve()
        if environment == self.place / ".venv":  # scripts/bootstrap is that of an earlier release
            return
        (self.place / ".venv").unlink()
        environment.rename(self.place / ".venv")
        environment.symlink_to(self.place / ".venv")
        (environment.parent / "directory").mkdir()  # of an earlier time, when this was so already

    def environment(self, **surroundings: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "LC_", "LANG"))}
        pip = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": self.index.url,
            "PIP_NO_CACHE_DIR": "1",
            "PIP_RETRIES": "0",
        }
        return {**clean, **pip, "PATH": f"{self.place / 'programs'}:{os.environ['PATH']}", **surroundings}

    def bootstrap(self, umask: int = -1, **surroundings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.place / "scripts/bootstrap", "--python-only"], env=self.environment(**surroundings), umask=umask,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip

    def make(self) -> None:
        result = self.bootstrap()
        assert result.returncode == 0, result.stdout

    def installed(self) -> dict[str, str]:
        """Every distribution in .venv with its version, as its own interpreter sees them."""
        program = (
            "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
        )
        listing = subprocess.run(
            [self.place / ".venv/bin/python", "-I", "-c", program], capture_output=True, check=True
        )
        versions: dict[str, str] = json.loads(listing.stdout)
        return versions

    def state(self) -> tuple[Path, dict[str, str], str]:
        """Where .venv leads, what is in it, and that its programs start."""
        script = subprocess.run([self.place / ".venv/bin/ansible"], capture_output=True, text=True, check=True)
        return (self.place / ".venv").resolve(), self.installed(), script.stdout


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with package_index() as served:
        yield served


@pytest.fixture
def checkout(tmp_path: Path, index: PackageIndex) -> Checkout:
    """A checkout whose lock is installed in an environment that works."""
    ready = Checkout(tmp_path / "a ü", index)
    ready.lock()
    ready.make()
    return ready


def packages(version: str) -> dict[str, str]:
    names = ("ansible", "covered", "tomlish")
    return {**dict.fromkeys(names, version), "goud-node": "0", "pip": oldest_pip().name.split("-")[1]}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_locked_is_installed_though_all_of_it_has_newer_releases(
    place: str, tmp_path: Path, index: PackageIndex
) -> None:
    checkout = Checkout(tmp_path / place, index)
    checkout.lock()
    checkout.make()
    before = checkout.state()
    assert before[1:] == (packages(LOCKED), f"{LOCKED}\n")
    checkout.make()
    assert checkout.state() == before, "a second run changes nothing"


def test_a_good_environment_is_recognised_from_everywhere(checkout: Checkout) -> None:
    before = checkout.state()
    for umask, surroundings in SURROUNDINGS:
        result = checkout.bootstrap(umask, **surroundings)
        assert result.returncode == 0, (surroundings, result.stdout)
        assert "installing" not in result.stdout, surroundings
        assert checkout.state() == before, surroundings


def test_others_may_read_what_was_installed_whatever_the_umask(tmp_path: Path, index: PackageIndex) -> None:
    checkout = Checkout(tmp_path / "checkout", index)
    checkout.lock()
    result = checkout.bootstrap(0o077, LC_ALL="C", **DEAD_PROXY)
    assert result.returncode == 0, result.stdout
    files = [path for path in (checkout.place / ".venv").resolve().rglob("*") if not path.is_symlink()]
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in files)


def no_such_release(checkout: Checkout) -> None:
    del checkout.index.wheels["tomlish-1.5-py3-none-any.whl"]


def another_content(checkout: Checkout) -> None:
    checkout.index.wheels["tomlish-1.5-py3-none-any.whl"] = wheel("tomlish", "1.5", extras=("other",))


def packages_that_do_not_fit(checkout: Checkout) -> None:
    line = checkout.index.add("tomlish", "1.5", requires=("covered<1",))
    lock = checkout.place / "requirements.lock"
    lock.write_text("".join(line if old.startswith("tomlish") else old for old in lock.read_text().splitlines(True)))


def no_node(checkout: Checkout) -> None:
    (checkout.place / "node/backend.py").write_text("raise SystemExit(1)")


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("link", no_such_release),
        ("directory", another_content),
        ("link", packages_that_do_not_fit),
        ("directory", no_node),
    ],
)
def test_an_installation_that_fails_leaves_the_former_environment(
    checkout: Checkout, kind: str, fault: Callable[[Checkout], None]
) -> None:
    if kind == "directory":
        checkout.make_directory()
    before = checkout.state()
    checkout.lock("1.5")
    fault(checkout)
    result = checkout.bootstrap()
    assert result.returncode == 1
    assert ".venv is as it was" in result.stdout
    assert checkout.state() == before
    checkout.lock("1.6")
    (checkout.place / "node/backend.py").write_text(BACKEND)
    checkout.make()
    assert checkout.installed() == packages("1.6"), "and the next run mends it"


@pytest.mark.parametrize(
    ("kind", "stalled", "number"), [("link", "ansible", signal.SIGKILL), ("directory", "tomlish", signal.SIGTERM)]
)
def test_an_installation_that_is_ended_leaves_the_former_environment(
    checkout: Checkout, kind: str, stalled: str, number: signal.Signals
) -> None:
    if kind == "directory":
        checkout.make_directory()
    before = checkout.state()
    checkout.lock("1.5")
    checkout.index.stalled_name = stalled
    with subprocess.Popen(
        [checkout.place / "scripts/bootstrap", "--python-only"], env=checkout.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        assert checkout.index.stalled.wait(60)
        process.send_signal(number)
        assert process.wait(20) in {-number, 128 + number}
    running = subprocess.run(["sh", "-c", "cat /proc/[0-9]*/cmdline"], capture_output=True, check=False).stdout
    assert number == signal.SIGKILL or f"{checkout.place}/.state/environments".encode() not in running
    assert checkout.state() == before
    checkout.index.stalled_name = ""
    checkout.make()
    assert checkout.installed() == packages("1.5")
    assert len(list(checkout.place.glob(".state/environments/*/bin"))) == 2, "the one before stays, the half one goes"


def no_interpreter(environment: Path) -> None:
    (environment / "bin/python").unlink()
    (environment / "bin/python").symlink_to("/nowhere/python3")


def not_to_be_run(environment: Path) -> None:
    (environment / "bin/python").unlink()
    (environment / "bin/python").write_text("#!/nowhere/sh\n")


def killed_at_once(environment: Path) -> None:
    (environment / "bin/python").unlink()
    (environment / "bin/python").write_text("#!/bin/sh\nkill -KILL $$\n")
    (environment / "bin/python").chmod(0o755)


def half_of_it(environment: Path) -> None:
    next(environment.glob("lib/*/site-packages/ansible.py")).unlink()


@pytest.mark.parametrize(
    ("kind", "fault"),
    [("link", no_interpreter), ("directory", not_to_be_run), ("directory", killed_at_once), ("link", half_of_it)],
)
def test_an_environment_that_does_not_answer_is_kept_until_another_works(
    checkout: Checkout, kind: str, fault: Callable[[Path], None]
) -> None:
    if kind == "directory":
        checkout.make_directory()
    environment = checkout.place / ".venv"
    fault(environment.resolve())
    before = contents(environment)
    served, checkout.index.wheels = checkout.index.wheels, {}
    assert checkout.bootstrap().returncode == 1
    assert contents(environment) == before, "nothing could take its place"
    checkout.index.wheels = served
    checkout.make()
    assert checkout.installed() == packages(LOCKED)
    assert before in [contents(path) for path in checkout.place.glob(".state/environments/*") if path.is_dir()]


def contents(environment: Path) -> dict[str, bytes]:
    """Every file and link below, by its path."""
    top = environment.resolve()
    return {
        str(path.relative_to(top)): bytes(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in top.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_two_at_once_make_one_environment(tmp_path: Path, index: PackageIndex) -> None:
    checkout = Checkout(tmp_path / "checkout", index)
    checkout.lock()
    with ThreadPoolExecutor(2) as pool:
        outputs = [run.result() for run in [pool.submit(checkout.bootstrap) for _ in range(2)]]
    assert [result.returncode for result in outputs] == [0, 0], outputs
    assert sum("waiting for process" in result.stdout for result in outputs) == 1
    assert (len(list(checkout.place.glob(".state/environments/*/bin"))), checkout.installed()) == (1, packages(LOCKED))


def as_a_copy_brings_it(_checkout: Checkout) -> None:
    """As it is: the link is relative, programs begin with an absolute path."""


def with_an_absolute_link(checkout: Checkout) -> None:
    target = (checkout.place / ".venv").resolve()
    (checkout.place / ".venv").unlink()
    (checkout.place / ".venv").symlink_to(target)


def with_a_node_that_is_imported_from_its_sources(checkout: Checkout) -> None:
    module = next((checkout.place / ".venv").glob("lib/*/site-packages/goud_node.py"))
    (checkout.place / "node/src").mkdir()
    shutil.move(module, checkout.place / "node/src")
    (module.parent / "sources.pth").write_text(str(checkout.place / "node/src"))
    for script in (checkout.place / ".venv/bin").glob("ansible"):
        script.write_text("#!/bin/sh\n")  # nothing but the import tells


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder where programs can name their interpreter in their first line."""
    with tempfile.TemporaryDirectory(prefix="goud") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    "fault", [as_a_copy_brings_it, with_an_absolute_link, with_a_node_that_is_imported_from_its_sources]
)
def test_a_copied_checkout_runs_its_own_code(
    short_path: Path, index: PackageIndex, fault: Callable[[Checkout], None]
) -> None:
    checkout = Checkout(short_path / "original", index)
    checkout.lock()
    checkout.make()
    fault(checkout)
    before = contents(checkout.place / ".venv")
    twin = copy.copy(checkout)
    twin.place = short_path / "copy"
    shutil.copytree(checkout.place, twin.place, symlinks=True)
    twin.make()
    environment = (twin.place / ".venv").resolve()
    assert environment.is_relative_to(twin.place)
    module = subprocess.run(
        [environment / "bin/python", "-I", "-c", "import goud_node; print(goud_node.__file__)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(module.stdout.strip()).is_relative_to(twin.place)
    assert str(environment) in (environment / "bin/ansible").read_text(), "its programs start its own interpreter"
    assert contents(checkout.place / ".venv") == before, "the original's is left alone"
    result = twin.bootstrap()
    assert "installing" not in result.stdout, "and is recognised from then on"


CONSTRAINT = "covered==2.0\n"
PIP_SETTINGS: list[dict[str, str]] = [
    {"PIP_REQUIRE_VIRTUALENV": "1", "PIP_USER": "1"}, {"PIP_TARGET": "{place}/elsewhere"},
    {"PIP_PREFIX": "{place}/elsewhere"}, {"PIP_ROOT": "{place}/elsewhere"}, {"PIP_CONSTRAINT": "{place}/constraint"},
    {"PIP_DRY_RUN": "1"}, {"PIP_NO_BINARY": ":all:"},
]  # fmt: skip


@pytest.mark.parametrize("settings", PIP_SETTINGS, ids=" ".join)
def test_settings_of_pip_do_not_change_what_is_installed(
    settings: dict[str, str], tmp_path: Path, index: PackageIndex
) -> None:
    checkout = Checkout(tmp_path / "checkout", index)
    checkout.lock()
    (checkout.place / "constraint").write_text(CONSTRAINT)
    surroundings = {name: value.format(place=checkout.place) for name, value in settings.items()}
    result = checkout.bootstrap(-1, **surroundings)
    assert result.returncode == 0, result.stdout
    assert checkout.installed() == packages(LOCKED)
    assert not (checkout.place / "elsewhere").exists()


def test_a_mirror_is_taken_from_the_operators_pip_conf(tmp_path: Path, index: PackageIndex) -> None:
    checkout = Checkout(tmp_path / "checkout", index)
    checkout.lock()
    settings = tmp_path / "pip.conf"
    settings.write_text(f"[global]\nindex-url = {index.url}\n[install]\nuser = yes\n")
    result = checkout.bootstrap(PIP_CONFIG_FILE=str(settings), PIP_INDEX_URL="")
    assert result.returncode == 0, result.stdout
    assert checkout.installed() == packages(LOCKED)
