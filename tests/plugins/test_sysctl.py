"""Kernel settings: what differs is set and read back; a refusal is told unless it is expected."""

from __future__ import annotations

from pathlib import Path

import pytest

import goud_sysctl


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "net/ipv4/conf/eth0.7").mkdir(parents=True)
    (tmp_path / "net/ipv4/port_range").write_text("32768\t60999\n")
    (tmp_path / "net/ipv4/conf/eth0.7/rp").write_text("1\n")
    return tmp_path


def test_blanks_make_no_difference(root: Path) -> None:
    assert not goud_sysctl.differing({"net.ipv4.port_range": "32768 60999"}, root)


def test_a_slash_stands_for_a_dot_in_a_name(root: Path) -> None:
    assert goud_sysctl.value_of("net.ipv4.conf.eth0/7.rp", root) == "1"


def test_what_differs_is_set(root: Path) -> None:
    differences = goud_sysctl.differing({"net.ipv4.port_range": "10240 65535"}, root)
    assert differences == {"net.ipv4.port_range": ("32768 60999", "10240 65535")}
    assert goud_sysctl.apply(differences, [], root) == (["net.ipv4.port_range"], [], [])
    assert not goud_sysctl.differing({"net.ipv4.port_range": "10240 65535"}, root)


def test_a_setting_that_is_not_there_is_a_problem_unless_it_is_optional(root: Path) -> None:
    differences = goud_sysctl.differing({"net.none": 1}, root)
    for judge in (goud_sysctl.apply, goud_sysctl.plan):
        assert judge(differences, [], root) == ([], ["net.none: this kernel has no such setting"], [])
        assert judge(differences, ["net.none"], root) == ([], [], ["net.none: this kernel has no such setting"])


def test_a_value_that_the_kernel_changes_is_a_problem(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goud_sysctl, "value_of", lambda *_: "8192")
    names, problems, _ = goud_sysctl.apply({"net.ipv4.port_range": ("1", "9000")}, [], root)
    assert not names
    assert problems == ["net.ipv4.port_range = 9000: the kernel took it and says 8192"]


def test_a_refusal_names_the_kernels_reason(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "write_text", refuse)
    problem = goud_sysctl.write("net.ipv4.port_range", "1 2", root)
    assert problem == "net.ipv4.port_range = 1 2: the kernel refuses it (Operation not permitted)"
