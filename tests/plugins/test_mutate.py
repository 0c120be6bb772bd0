"""Planted faults: one that a test notices is killed, one that none notices survives, and no answer is no pass."""

from __future__ import annotations

from pathlib import Path

import pytest

import mutate

FIRM = """
from double import double

def test_double():
    assert double(3) == 6
"""
BLIND = """
from double import double

def test_double():
    double(3)
"""


@pytest.fixture
def mutation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> mutate.Mutation:
    """A project of one function and two tests, one of which cannot fail."""
    for name, text in {
        "node/src/double.py": "def double(number):\n    return 2 * number\n",
        "test_firm.py": FIRM,
        "test_blind.py": BLIND,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    mutate.git(tmp_path, "init", "--quiet")
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    monkeypatch.setattr(mutate, "SOURCES", tmp_path / "node/src")
    return mutate.Mutation("thrice", "arithmetic", "double.py", "2 * number", "3 * number", ("test_firm.py",))


def replaced(mutation: mutate.Mutation, **changes: object) -> mutate.Mutation:
    return mutate.Mutation(**{**vars(mutation), **changes})


def test_a_fault_that_a_test_notices_is_killed(mutation: mutate.Mutation, tmp_path: Path) -> None:
    verdict = mutate.run(mutation)
    assert (verdict.verdict, verdict.detail) == ("killed", "test_firm.py::test_double")
    assert "2 * number" in (tmp_path / "node/src/double.py").read_text(), "the project's own file was changed"


def test_a_fault_that_no_test_notices_survives(mutation: mutate.Mutation) -> None:
    assert mutate.run(replaced(mutation, tests=("test_blind.py",))).verdict == "survived"


def test_tests_that_cannot_run_prove_nothing(mutation: mutate.Mutation) -> None:
    with pytest.raises(mutate.MutationError, match="could not be run"):
        mutate.run(replaced(mutation, tests=("test_absent.py",)))


def test_a_test_that_needs_containers_kills_nothing(mutation: mutate.Mutation, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    etcd: needs an engine\n")
    marked = (
        "import pytest\n\n@pytest.mark.etcd\ndef test_engine():\n    assert False\n\ndef test_nothing():\n    pass\n"
    )
    (tmp_path / "test_engine.py").write_text(marked)
    assert mutate.run(replaced(mutation, tests=("test_engine.py",))).verdict == "survived"


def test_a_mutation_that_fits_no_more_is_named(mutation: mutate.Mutation) -> None:
    with pytest.raises(mutate.MutationError, match="thrice: its `before` stands 0 times"):
        mutate.check([replaced(mutation, before="4 * number")])


def test_a_test_that_fails_anyway_is_named(mutation: mutate.Mutation, tmp_path: Path) -> None:
    (tmp_path / "test_firm.py").write_text("def test_double():\n    assert False\n")
    with pytest.raises(mutate.MutationError, match="fails without any mutation"):
        mutate.passes_unchanged([mutation])


def test_every_mutation_fits_the_sources() -> None:
    mutate.check(mutate.load())
