"""Unknown, removed and ill-typed variables are refused, with the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest

import goud_variables

SPEC = """---
argument_specs:
  main:
    short_description: A role
    options:
      disk_size_mb: {type: int, default: 3, description: Size.}
      disk_mode: {type: str, choices: [fast, safe], description: Mode.}
      disk_force_enabled: {type: bool, description: Force.}
"""


@pytest.fixture
def catalogue(tmp_path: Path) -> goud_variables.Catalogue:
    role = tmp_path / "roles/disk"
    for folder, text in {"meta/argument_specs.yml": SPEC, "vars/main.yml": '_disk_format: !unsafe "{{.X}}"\n'}.items():
        (role / folder).parent.mkdir(parents=True)
        (role / folder).write_text(text)
    meta = tmp_path / "expand.meta.yml"
    meta.write_text(
        "argument_specs:\n  expand:\n    options:\n      expand_confirm: {type: bool, description: Go on.}\n"
    )
    return goud_variables.known_variables(tmp_path / "roles", [meta])


def test_known_names_pass(catalogue: goud_variables.Catalogue) -> None:
    names = ["disk_size_mb", "expand_confirm", "ansible_user", "_disk_format"]
    assert goud_variables.unknown_extra(names, catalogue, {}) == []


def test_a_typo_gets_the_nearest_name(catalogue: goud_variables.Catalogue) -> None:
    assert goud_variables.unknown_extra(["disk_size_bm"], catalogue, {}) == [
        "unknown variable 'disk_size_bm': did you mean 'disk_size_mb' (role disk)?"
    ]
    assert goud_variables.unknown_extra(["expand_confrm"], catalogue, {}) == [
        "unknown variable 'expand_confrm': did you mean 'expand_confirm' (expand)?"
    ]


def test_a_name_near_to_nothing_is_refused_too(catalogue: goud_variables.Catalogue) -> None:
    (sentence,) = goud_variables.unknown_extra(["qqq"], catalogue, {})
    assert "no role and no verb reads it" in sentence


def test_a_removed_name_says_what_replaces_it(catalogue: goud_variables.Catalogue) -> None:
    removed = {"disk_gb": "use disk_size_mb"}
    assert goud_variables.unknown_extra(["disk_gb"], catalogue, removed) == [
        "the variable 'disk_gb' was removed: use disk_size_mb"
    ]
    assert len(goud_variables.unknown_inventory(["disk_gb"], catalogue, removed)) == 1


def test_inventory_names_are_judged_by_their_prefix(catalogue: goud_variables.Catalogue) -> None:
    assert goud_variables.unknown_inventory(["site", "disk_size_mb"], catalogue, {}) == []
    assert len(goud_variables.unknown_inventory(["site", "disk_siz_mb"], catalogue, {})) == 1


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("disk_size_mb", 80, True),
        ("disk_size_mb", "80", True),
        ("disk_size_mb", "many", False),
        ("disk_mode", "fast", True),
        ("disk_mode", "furious", False),
        ("expand_confirm", "true", True),
        ("expand_confirm", "perhaps", False),
        ("unknown", "anything", True),  # another check's business
    ],
)
def test_types(catalogue: goud_variables.Catalogue, name: str, value: object, fits: bool) -> None:
    problems = goud_variables.wrong_values({name: value}, catalogue)
    assert (problems == []) is fits
    assert all(name in problem for problem in problems)


@pytest.mark.parametrize(
    ("running", "fits"), [("2.19.14", True), ("2.20.0", True), ("3.0.1", True), ("2.18.9", False), ("2.9.27", False)]
)
def test_core_version_is_compared_by_number(running: str, fits: bool) -> None:
    assert (goud_variables.core_problem(running, "2.19") is None) is fits


def test_a_file_without_specifications_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.meta.yml"
    path.write_text("other: 1\n")
    with pytest.raises(goud_variables.SpecificationError, match=r"x\.meta\.yml"):
        goud_variables.specifications(path)
