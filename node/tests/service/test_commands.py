"""Commands that need no running node."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from goud_node.settings import Settings

from .support import MakeSettings, run

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def attempt(*arguments: str, **variables: str) -> tuple[int, str, str]:
        return run(monkeypatch, capsys, *arguments, **variables)

    return attempt


def test_from_nothing_to_an_initialised_volume(command: Run, tmp_path: Path) -> None:
    key, genesis, data = tmp_path / "node.key", tmp_path / "genesis.json", tmp_path / "data"
    code, public, _ = command("keygen", "--out", str(key))
    assert code == 0
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert command("keygen", "--show", str(key))[1] == public
    created = ("genesis", "create", "--out", str(genesis), "--validator", f"node1={public.strip()}")
    code, chain, _ = command(*created)
    assert code == 0
    assert chain.startswith("goud-")
    shown = json.loads(command("genesis", "show", str(genesis), "--json")[1])
    assert shown["chain_id"] == chain.strip()
    variables = {
        "GOUD_DATA_DIR": str(data),
        "GOUD_GENESIS_FILE": str(genesis),
        "GOUD_DATA_MUST_BE_MOUNT": "false",
    }
    first, second = (json.loads(command("init", "--json", **variables)[1]) for _ in range(2))
    assert (first["created"], second["created"]) == (True, False)
    assert (data / "chain_id").read_text().strip() == chain.strip()
    code, out, _ = command("inspect", **variables)
    assert code == 0
    assert "verified" in out


def test_nothing_is_ever_overwritten(command: Run, tmp_path: Path) -> None:
    key = tmp_path / "node.key"
    public = command("keygen", "--out", str(key))[1].strip()
    before = key.read_bytes()
    code, _, err = command("keygen", "--out", str(key))
    assert (code, "never overwritten" in err) == (3, True)
    assert key.read_bytes() == before
    genesis = ("genesis", "create", "--out", str(tmp_path / "g.json"), "--validator", f"node1={public}")
    assert command(*genesis)[0] == 0
    assert command(*genesis)[0] == 3


@pytest.mark.parametrize("validator", ["node1", "node1=zz", "=00", "node1=0011"])
def test_a_malformed_validator(command: Run, tmp_path: Path, validator: str) -> None:
    code, _, err = command("genesis", "create", "--out", str(tmp_path / "g.json"), "--validator", validator)
    assert code == 3
    assert "goud-node: configuration" in err
    assert not (tmp_path / "g.json").exists()


def test_init_wants_a_mount_by_default(command: Run, make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    code, _, err = command("init", "--data-dir", str(tmp_path / "new"), "--genesis", str(settings.genesis_file))
    assert (code, "mount" in err) == (3, True)
    assert not (tmp_path / "new").exists()


def inspected(command: Run, settings: Settings) -> tuple[int, dict[str, object]]:
    code, out, _ = command(
        "inspect", "--json", "--data-dir", str(settings.data_dir), "--genesis", str(settings.genesis_file)
    )
    return code, json.loads(out)


def test_inspect_says_verified_and_what_is_wrong(command: Run, make_settings: MakeSettings) -> None:
    settings = make_settings()
    code, report = inspected(command, settings)
    assert (code, report["verified"], report["height"]) == (0, True, 0)
    (settings.database_dir / "CURRENT").unlink()
    code, report = inspected(command, settings)
    assert (code, report["verified"]) == (11, False)


def test_documents_are_printed(command: Run) -> None:
    assert "GOUD_NODE_ID" in command("settings")[1]
    assert json.loads(command("openapi")[1])["info"]["title"] == "Goud Chain node"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("serve",),
        ("init",),
        ("keygen",),
        ("genesis", "create"),
        ("inspect",),
        ("admin",),
        ("admin", "drain"),
        ("epoch", "start"),
    ],
)
def test_help_teaches(command: Run, arguments: tuple[str, ...]) -> None:
    code, out, _ = command(*arguments, "--help")
    assert code == 0
    assert len(out) > 200


def test_wrong_usage_is_2(command: Run) -> None:
    assert command("no-such-command")[0] == 2
    assert command("keygen")[0] == 2
