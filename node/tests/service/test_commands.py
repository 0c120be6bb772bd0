"""Commands that need no running node."""

from __future__ import annotations

import json
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
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


def replying(status: int, answer: bytes) -> Callable[..., Awaitable[httpx.Response]]:
    async def reply(_transport: httpx.AsyncHTTPTransport, _request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, stream=httpx.ByteStream(answer))

    return reply


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b'{"role": "follower", "role": "proposer"}', "it names 'role' twice"),
        (b'{"height": 1e400}', "1e400 is larger than any number"),
        (b'{"height": NaN}', "NaN is not a number of JSON"),
        (b"[]", "Expected `object`"),
        (b"<html>", "it is not JSON"),
    ],
)
def test_an_answer_to_the_operator_is_read_strictly(
    command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: bytes, reason: str
) -> None:
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", replying(200, answer))
    command("keygen", "--out", str(tmp_path / "operator.key"))
    node = ("--url", "http://node1:9000", "--node", "node1", "--key", str(tmp_path / "operator.key"))
    code, out, err = command("admin", *node, "status")
    assert (code, out) == (12, "")
    assert "node1" in err
    assert reason in err


BAD: list[Any] = ["no", 1, None, []]
BAD_TIMES: list[Any] = [1e300, -1, None, []]
LEASE: dict[str, Any] = {"id": "a", "path": "/data/checkpoints/a", "expires": 1.8e9, "files": {"CURRENT": 16}}
BAD_LEASES = [LEASE | {"expires": moment} for moment in BAD_TIMES]
BAD_FILES: list[Any] = [7, None, [], {"a": "x"}, {"a": -1}]
ESCAPE = "\x1b[2J\x07[/x]"


def answered(
    command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: bytes, *words: str, status: int = 200
) -> tuple[int, str, str]:
    """What an operator's command makes of that answer."""
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", replying(status, answer))
    if not (tmp_path / "operator.key").exists():
        command("keygen", "--out", str(tmp_path / "operator.key"))
    node = ("--url", "http://node1:9000", "--node", "node1", "--key", str(tmp_path / "operator.key"))
    return command("admin", *node, *words)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("words", "answers"),
    [
        (("hand-over",), [b"", b"{}", *({"handed_over": value} for value in BAD)]),
        (("checkpoint", "list"), [b"", *({"checkpoints": value} for value in (*BAD[:3], [7], [{}], {"a": 1}))]),
        (("checkpoint", "list"), [{"checkpoints": [lease]} for lease in BAD_LEASES]),
        (("checkpoint", "create"), [b"", b"{}", *(LEASE | {"expires": value} for value in BAD_TIMES)]),
        (("checkpoint", "create"), [LEASE | {"files": value} for value in BAD_FILES]),
    ],
)
def test_an_answer_of_another_shape_is_no_success(  # noqa: PLR0917  # four fixtures
    command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...],
    answers: list[Any], as_json: bool,
) -> None:  # fmt: skip
    for answer in answers:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        code, out, err = answered(command, monkeypatch, tmp_path, content, *words, *(["--json"] * as_json))
        assert (code, out) == (12, ""), answer
        assert "node1 gave no usable answer" in err, answer


@pytest.mark.parametrize("status", [200, 401, 403])
def test_no_answer_commands_the_operators_terminal(
    command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int
) -> None:
    content = json.dumps({"role": ESCAPE, "detail": ESCAPE, ESCAPE: "\ud800"}).encode()
    for body in (content, ESCAPE.encode()):
        _, out, err = answered(command, monkeypatch, tmp_path, body, "status", status=status)
        assert not {"\x1b", "\x07"} & set(out + err)
        assert out + err


def test_wrong_usage_is_2(command: Run) -> None:
    assert command("no-such-command")[0] == 2
    assert command("keygen")[0] == 2
