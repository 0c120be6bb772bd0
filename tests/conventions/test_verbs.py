"""A verb is a root playbook that explains itself, with documented arguments and a runbook."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml

import documentation

ROOT = documentation.ROOT
VERBS = [name.removesuffix(".yml") for name in documentation.verbs()]


def test_there_are_verbs() -> None:
    assert {"deploy", "verify"} <= set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_root_playbook_explains_itself(verb: str) -> None:
    text = (ROOT / f"{verb}.yml").read_text()
    for word in ("Usage", "Required", "Optional"):
        assert re.search(rf"^# {word}:", text, re.MULTILINE), f"{verb}.yml has no line '# {word}:'"
    imports = [play.get("ansible.builtin.import_playbook") for play in yaml.safe_load(text)]
    assert imports == [f"ansible/playbooks/{verb}.yml"]


@pytest.mark.parametrize("verb", VERBS)
def test_arguments_are_documented(verb: str) -> None:
    content = yaml.safe_load((ROOT / f"ansible/playbooks/{verb}.meta.yml").read_text())
    for entry in content["argument_specs"].values():
        assert entry["short_description"]
        for name, option in (entry.get("options") or {}).items():
            assert option["description"], name
            assert option["type"], name


@pytest.mark.parametrize("verb", VERBS)
def test_runbook_exists(verb: str) -> None:
    text = (ROOT / f"docs/runbooks/{verb}.md").read_text()
    assert text.startswith("# ")
    assert f"./run {verb.replace('_', '-')}" in text


@pytest.mark.parametrize("verb", VERBS)
def test_boilerplate_comes_first(verb: str) -> None:
    first = yaml.safe_load((ROOT / f"ansible/playbooks/{verb}.yml").read_text())[0]
    assert first.get("ansible.builtin.import_playbook") == "boilerplate.yml"


READING = {
    "status",
    "verify",
    "logs",
    "lb_status",
    "volumes_list",
    "volumes_inspect",
    "volumes_check",
    "snapshots_list",
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_changes_things_asks_whose_cluster_it_is(verb: str) -> None:
    variables = yaml.safe_load((ROOT / f"ansible/playbooks/{verb}.yml").read_text())[0].get("vars", {})
    asks = {"boilerplate_exclusive", "boilerplate_works"} & set(variables)
    assert bool(asks) == (verb not in READING)


# What works, judges or shows host by host; all else chooses among all hosts, or removes what none of them uses.
BY_HOST = READING | {"deploy", "provision", "snapshot", "snapshots_restore", "start", "stop"}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_judges_by_the_whole_cluster_needs_all_of_it(verb: str) -> None:
    variables = yaml.safe_load((ROOT / f"ansible/playbooks/{verb}.yml").read_text())[0].get("vars", {})
    whole = variables.get("boilerplate_needs") == ["chain_nodes", "coordination", "edge"]
    assert whole == (verb not in BY_HOST)


# What a machine has after ./run up: the shell's own words, curl and jq (scripts/bootstrap), and what is in .venv.
COMMANDS = {
    "./run",
    "curl",
    "jq",
    "grep",
    "cat",
    "eval",
    "docker",
    "systemctl",
    "sed",
    "tar",
    "sha256sum",
    "git",
    "ssh",
    "export",
}


def examples(name: str) -> list[str]:
    """The commands that a document gives to be typed: one a line, what a pipe or a substitution starts included."""
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    lines = [re.sub(r"'[^']*'|(?<!\S)#.*|\b\w+=(?=\$\()", "", line) for line in blocks.splitlines()]
    return [part.strip() for line in lines for part in re.split(r"\$\(|\||&&|;", line) if part.strip(" \")'")]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", *(f"docs/runbooks/{verb}.md" for verb in VERBS)])
def test_examples_can_be_typed_on_a_fresh_machine(name: str) -> None:
    words = {part.split()[0] for part in examples(name)}
    paths = {word for word in words if "/" in word and (ROOT / word).is_file()}
    assert {word for word in words - COMMANDS - paths if not word.startswith((".venv/bin/", "-", '"'))} == set()


def test_help_names_every_verb() -> None:
    done = subprocess.run([ROOT / "run", "help"], check=True, capture_output=True, text=True)
    words = set(re.findall(r"[a-z][a-z-]+", done.stdout))
    missing = [verb for verb in VERBS if verb.replace("_", "-") not in words]
    assert not missing


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "./run VERB"),
        (("nonsense",), "'nonsense' is not a verb"),
        (("requirements",), "'requirements' is not a verb"),
        (("volumes-inspect",), "which one?"),
        (("deploy", "mars"), "'mars' is not an environment"),
        (("deploy", "-e"), "-e needs a value"),
        (("deploy", "--limit"), "--limit needs a value"),
        (("restore", "no such backup"), "'no such backup' is neither"),
    ],
)
def test_wrong_usage_is_refused(arguments: tuple[str, ...], sentence: str) -> None:
    done = subprocess.run([ROOT / "run", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 64
    assert sentence in done.stdout + done.stderr


def misspelt(word: str) -> list[str]:
    """The word with two letters exchanged, one left out, one twice."""
    middle = len(word) // 2
    exchanged = word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]
    return [exchanged, word[:middle] + word[middle + 1 :], word[:middle] + word[middle : middle + 1] + word[middle:]]


@pytest.mark.parametrize("verb", ["status", "backup", "restore", "volumes-inspect", "lb-status"])
def test_a_misspelt_verb_is_answered_with_the_nearest(verb: str) -> None:
    for word in set(misspelt(verb)) - {verb}:
        done = subprocess.run([ROOT / "run", word], check=False, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (64, "")
        assert f"Did you mean '{verb}'?" in done.stderr


@pytest.mark.parametrize("option", ["--json", "--check", "--limit", "--diff"])
def test_a_misspelt_option_is_answered_with_the_nearest(option: str) -> None:
    for word in set(misspelt(option)) - {option}:
        done = subprocess.run([ROOT / "run", "status", word], check=False, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (64, "")
        assert f"'{word}' is not an option. Did you mean '{option}'?" in done.stderr
