"""Commands that need no running node."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from goud_node.cli import admin
from goud_node.documents import MOST_LISTING
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
STANDING: dict[str, Any] = {"node_id": "node1", "role": "follower", "height": 5, "draining": True}
BAD_STANDINGS = [STANDING | {name: None} for name in STANDING] + [STANDING | {"node_id": "node2"}]
ESCAPE = "\x1b[2J\x07[/x]\x9b2J\u202e\u2028\U000e0001"


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
        *(((*words,), [b"", b"{}", b"[]", *BAD_STANDINGS]) for words in (["status"], ["drain"], ["undrain"])),
        (("drain",), [STANDING | {"draining": False}]),
        (("undrain",), [STANDING | {"draining": True}]),
        (("start-epoch", "--yes"), [b"", b"{}", *({"started_epoch": value} for value in BAD if value != 1)]),
        (("checkpoint", "release", "a"), [b"", b"{}"]),
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


VERBS = ("status", "drain", "undrain", "hand-over", "start-epoch --yes", "checkpoint create", "checkpoint list")


@pytest.mark.parametrize("verb", [*VERBS, "checkpoint release a"])
@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 300, 302, 304, 399])
def test_an_answer_of_another_status_is_no_success(  # four fixtures
    command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: str, status: int
) -> None:
    success = {"checkpoint create": 201, "checkpoint release a": 204}.get(verb, 200)
    everything = STANDING | LEASE | {"handed_over": True, "started_epoch": 2, "checkpoints": [LEASE]}
    content = json.dumps(everything | {"draining": verb != "undrain"}).encode() if success != 204 else b""
    code, out, err = answered(command, monkeypatch, tmp_path, content, *verb.split(), status=status)
    assert (code, bool(out)) == ((0, True) if status == success else (12, False)), err


def test_what_answers_without_end_is_given_up(command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody has vouched for it yet: neither its length nor its time is its own choice."""
    command("keygen", "--out", str(tmp_path / "operator.key"))
    sizes: list[int] = []

    class Endless(httpx.AsyncByteStream):
        def __init__(self, part: bytes, pause: float) -> None:
            self.part, self.pause = part, pause

        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(self.pause)
                sizes.append(len(self.part))
                yield self.part

    monkeypatch.setattr(admin, "_SECONDS", 1.0)
    packed = {"content-encoding": "gzip"}
    for stream, headers in (
        (Endless(bytes(1 << 20), 0), {}),
        (Endless(b"x" * 4096, 0), packed),
        (Endless(b" ", 0.1), {}),
    ):
        sizes.clear()

        async def reply(*_: object, answer: Endless = stream, names: dict[str, str] = headers) -> httpx.Response:
            return httpx.Response(200, stream=answer, headers=names)

        monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", reply)
        node = ("--url", "http://node1:9000", "--node", "node1", "--key", str(tmp_path / "operator.key"))
        begin = time.monotonic()
        code, out, err = command("admin", *node, "status")
        assert (code, out) == (12, "")
        assert "node1 does not answer" in err
        assert sum(sizes) <= MOST_LISTING + (1 << 20)
        assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    "headers",
    [
        *(
            {"Content-Type": f"text/plain; charset={name}"}
            for name in ("hex", "base64", "punycode", "idna", "rot13", "zip")
        ),
        *({"Location": place} for place in ("http:a", "http://[", "http://a:b")),
        {"Content-Encoding": "gzip"},
        {"Set-Cookie": "a=b"},
    ],
    ids=str,
)
@pytest.mark.parametrize("status", [200, 302, 401, 403, 500])
def test_no_header_of_an_answer_breaks_a_command(
    command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, headers: dict[str, str]
) -> None:
    command("keygen", "--out", str(tmp_path / "operator.key"))

    async def reply(*_: object) -> httpx.Response:
        return httpx.Response(status, stream=httpx.ByteStream(b"\xff\xfezz"), headers=headers)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", reply)
    node = ("--url", "http://node1:9000", "--node", "node1", "--key", str(tmp_path / "operator.key"))
    code, out, err = command("admin", *node, "status")
    assert (code, out) == (12, "")
    assert err.startswith("goud-node: unreachable: node1")


NO_URLS = [
    "",
    "node1:9000",
    "ftp://x",
    "http://a\x01\x1b",
    "http://[",
    "http://a:b",
    f"http://{'a' * 300}",
    "http://\udcff",
]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        *((("--url", url, "status"), 12) for url in NO_URLS),
        *((("checkpoint", "create", "--ttl", ttl), 2) for ttl in ("nan", "inf", "-inf", "0", "-1", "1e9")),
        *((("checkpoint", "create", "--id", name), 2) for name in ("../x", "", "é", "a?b#c", "a" * 65)),
        *((("checkpoint", "release", name), 2) for name in ("../../x", "é", "a?b#c", "a b", "\x1b")),
    ],
)
def test_what_nobody_can_be_asked_is_a_sentence(
    command: Run, tmp_path: Path, words: tuple[str, ...], expected: int
) -> None:
    command("keygen", "--out", str(tmp_path / "operator.key"))
    node = ("--url", "http://127.0.0.1:1", "--node", "node1", "--key", str(tmp_path / "operator.key"))
    code, out, err = command("admin", *node, *words)
    assert (code, out) == (expected, "")
    assert len(err) > 20
    assert not {"\x1b", "\x01"} & set(err)
    assert "Traceback" not in err


@pytest.mark.parametrize("status", [200, 401, 403])
def test_no_answer_commands_the_operators_terminal(
    command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int
) -> None:
    content = json.dumps({"role": ESCAPE, "detail": ESCAPE, ESCAPE: "\ud800"}).encode()
    shown = json.dumps(STANDING | {"started_epoch": 2, "more": ESCAPE, ESCAPE: 1}).encode()
    for body in (content, shown, ESCAPE.encode()):
        for words in (("status",), ("status", "--json"), ("start-epoch", "--yes", "--json")):
            _, out, err = answered(command, monkeypatch, tmp_path, body, *words, status=status)
            assert not set(ESCAPE) - set("[2J/x]") & set(out + err)
            assert out + err


def test_wrong_usage_is_2(command: Run) -> None:
    assert command("no-such-command")[0] == 2
    assert command("keygen")[0] == 2
