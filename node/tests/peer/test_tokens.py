"""Peer tokens: each way of being wrong is refused for its own reason."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from goud_node.chain.keys import DOMAIN_BLOCK, SigningKey
from goud_node.peer import tokens
from goud_node.peer.tokens import DOMAIN_ANSWER, DOMAIN_REQUEST, Caller, Refused, Signer, Verifier

KEY = SigningKey.from_seed(b"\1" * 32)
STRANGER = SigningKey.from_seed(b"\2" * 32)
TARGET = "/peer/blocks?start=1&limit=2"
BODY = b"body"


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Running:
    now = 500.0

    def __call__(self) -> float:
        return self.now


def verifier(clock: Clock | None = None, **options: Any) -> Verifier:
    return Verifier("node2", {"node1": KEY.public}, clock or Clock(), **options)


def made(key: SigningKey = KEY, issuer: str = "node1", clock: Clock | None = None) -> str:
    return Signer(key, issuer, clock or Clock()).request("node2", "POST", TARGET, BODY)[0]


def take(verifier: Verifier, token: str | None, body: bytes = BODY) -> Caller:
    caller = verifier.request(token, "POST", TARGET)
    verifier.take(caller, body)
    return caller


def check(token: str | None, method: str = "POST", target: str = TARGET) -> None:
    verifier().request(token, method, target)


def altered(token: str, **changes: object) -> str:
    """Other claims under the old signature."""
    head, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "==")) | changes
    return f"{head}.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.{signature}"


def resigned(**changes: object) -> str:
    """Other claims, signed again by the right key: what a dishonest peer could send."""
    claims = json.loads(base64.urlsafe_b64decode(made().split(".")[1] + "==")) | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return tokens._encode(tokens._REQUESTS, tokens._REQUEST_ALG, claims, KEY)


def test_a_signed_request_is_accepted() -> None:
    caller = take(verifier(), made())
    assert caller.node_id == "node1"
    assert len(caller.request_id) == 32


@pytest.mark.parametrize(
    ("reason", "attempt"),
    [
        ("unsigned", lambda: check(None)),
        ("unsigned", lambda: check("")),
        ("malformed", lambda: check("a.b.c")),
        ("malformed", lambda: check("nonsense")),
        ("unknown", lambda: check(made(issuer="node9"))),
        ("forged", lambda: check(made(key=STRANGER))),
        ("forged", lambda: check(altered(made(), aud="node2", mth="GET"), method="GET")),
        ("forged", lambda: check(made()[:-4] + "AAAA")),
        ("altered", lambda: check(made(), method="GET")),
        ("altered", lambda: check(made(), target="/peer/blocks?start=1&limit=3")),
        ("altered", lambda: take(verifier(), made(), b"other")),
        ("audience", lambda: take(Verifier("node3", {"node1": KEY.public}, Clock()), made())),
        ("malformed", lambda: check(resigned(exp=2_000_000_000))),
        ("malformed", lambda: check(resigned(exp=None))),
        ("malformed", lambda: check(resigned(iat="now"))),
        ("malformed", lambda: check(resigned(jti=None))),
        ("malformed", lambda: check(resigned(jti=5))),
        ("malformed", lambda: check(resigned(jti="j" * 65))),
        ("future", lambda: check(resigned(iat=1_800_000_011, exp=1_800_000_020))),
    ],
)
def test_a_wrong_request_is_refused(reason: str, attempt: Callable[[], None]) -> None:
    with pytest.raises(Refused) as caught:
        attempt()
    assert caught.value.reason == reason


def test_an_expired_request_is_refused() -> None:
    token, clock = made(), Clock()
    running = Running()
    since = verifier(clock, running=running)
    clock.now += tokens.LIFETIME_SECONDS + tokens.LEEWAY_SECONDS - 1
    running.now += tokens.LIFETIME_SECONDS + tokens.LEEWAY_SECONDS - 1
    take(since, token)
    clock.now += 1
    with pytest.raises(Refused, match="expired"):
        take(since, token)


@pytest.mark.parametrize("before", [0.002, 0.5, 1, 10, tokens.LIFETIME_SECONDS + tokens.LEEWAY_SECONDS - 2])
@pytest.mark.parametrize("whole_seconds", [False, True], ids=["with milliseconds", "of an earlier release"])
def test_a_request_from_before_a_restart_is_refused_for_good(before: float, whole_seconds: bool) -> None:
    """What the old process accepted, nobody remembers."""
    clock, running = Clock(), Running()
    old = verifier(clock, running=running)
    token = resigned(ims=None) if whole_seconds else made(clock=clock)
    take(old, token)
    clock.now += before
    running.now += before
    new = verifier(clock, running=running)
    for _ in range(3):
        with pytest.raises(Refused) as caught:
            take(new, token)
        assert caught.value.reason == "restarted"
        clock.now += 0.5
        running.now += 0.5
    take(new, made(clock=clock))


@pytest.mark.parametrize("step", [-86_400, 86_400])
def test_a_step_of_the_wall_clock_after_the_start_refuses_nobody(step: int) -> None:
    clock, running = Clock(), Running()
    started = verifier(clock, running=running)
    running.now += 1
    clock.now += 1 + step
    take(started, made(clock=clock))


@pytest.mark.parametrize("ims", [0, "1", True, 1.5, 1_800_000_001_000, 1_799_999_999_999])
def test_a_token_may_not_contradict_itself_about_its_time(ims: object) -> None:
    with pytest.raises(Refused) as caught:
        check(resigned(ims=ims))
    assert caught.value.reason == "malformed"


def test_a_request_is_remembered_for_as_long_as_it_would_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a caller whose clock is ahead lives longest: a step before it ends, it must not be taken again."""
    here, ahead, passing, running = Clock(), Clock(), Running(), Running()
    monkeypatch.setattr("goud_node.peer.tokens.time.monotonic", passing)
    once = verifier(here, running=running, since=running.now - 1000)
    monkeypatch.undo()
    ahead.now = here.now + tokens.LEEWAY_SECONDS
    token = made(clock=ahead)
    take(once, token)
    for _ in range(tokens.LIFETIME_SECONDS + 2 * tokens.LEEWAY_SECONDS):
        with pytest.raises(Refused) as refused:
            take(once, token)
        assert refused.value.reason == "replayed"
        for clock in (here, passing, running):
            clock.now += 1
    with pytest.raises(Refused) as refused:
        take(once, token)
    assert refused.value.reason == "expired"


class World:
    """One node and its clocks, through restarts; `ahead` is by how much the operator's clock is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ahead: float = 0) -> None:
        self.wall, self.passing, self.operators = Clock(), Running(), Clock()
        self.ahead = ahead
        monkeypatch.setattr("goud_node.peer.tokens.time.monotonic", self.passing)
        self.keys = {name: SigningKey.generate() for name in ("operator", "node1")}
        self.restart()
        self.go_on(100)

    def restart(self) -> None:
        keys = {name: key.public for name, key in self.keys.items()}
        self.node = Verifier("node1", keys, self.wall, running=self.passing)

    def go_on(self, seconds: float, step: float = 0) -> None:
        self.passing.now += seconds
        self.wall.now += seconds + step

    def token(self, issuer: str, challenge: str | None) -> str:
        self.operators.now = self.wall.now + self.ahead
        signer = Signer(self.keys[issuer], issuer, self.operators)
        return signer.request("node1", "POST", "/operator/drain", b"", challenge)[0]

    def take(self, token: str) -> None:
        self.node.take(self.node.request(token, "POST", "/operator/drain"), b"")


@pytest.mark.parametrize("issuer", ["operator", "node1"])
@pytest.mark.parametrize("ahead", [0, tokens.LEEWAY_SECONDS])
@pytest.mark.parametrize("restarts", [True, False], ids=["after a restart", "in one life"])
@pytest.mark.parametrize("step", [0, -10, -60, -3600])
@pytest.mark.parametrize("passed", [0.001, 3, 60])
def test_what_operates_a_node_is_taken_once_whatever_clocks_do(  # noqa: PLR0917  # one for each clock
    monkeypatch: pytest.MonkeyPatch, issuer: str, ahead: int, restarts: bool, step: int, passed: float
) -> None:
    world = World(monkeypatch, ahead)
    recorded = world.token(issuer, world.node.challenge())
    world.take(recorded)
    world.go_on(passed, step)
    if restarts:
        world.restart()
    world.take(world.token(issuer, world.node.challenge()))
    for _ in range(2 * (abs(step) + tokens.LIFETIME_SECONDS + tokens.LEEWAY_SECONDS) // 5):
        with pytest.raises(Refused):
            world.take(recorded)
        world.go_on(5)


def test_what_operates_a_node_is_refused_without_its_challenge(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    moment, _, seal = world.node.challenge().partition(":")
    other = World(monkeypatch)
    for challenge, reason in (
        (None, "challenge"),
        (other.node.challenge(), "restarted"),
        (f"{float(moment) + 5:.3f}:{seal}", "restarted"),
        (f"nan:{seal}", "restarted"),
        ("\u2603:\u2603", "restarted"),
        ("", "restarted"),
    ):
        with pytest.raises(Refused) as refused:
            world.take(world.token("operator", challenge))
        assert refused.value.reason == reason
        assert (refused.value.caller is None) == (reason != "challenge"), (
            "who asks for a challenge gets a signed answer"
        )
    challenge = world.node.challenge()
    world.go_on(tokens.LIFETIME_SECONDS - 1)
    world.take(world.token("operator", challenge))
    world.go_on(1)
    with pytest.raises(Refused) as refused:
        world.take(world.token("operator", challenge))
    assert refused.value.reason == "expired"


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[]", b'{"challenge": 5}', b'{"challenge": "%s"}' % (b"x" * 201), b"\xff"]
)
def test_an_answer_that_has_no_challenge(raw: bytes) -> None:
    assert tokens.challenge_of(raw) is None


def test_a_replayed_request_is_refused() -> None:
    once = verifier()
    token = made()
    also = once.request(token, "POST", TARGET)
    take(once, token)
    with pytest.raises(Refused, match="received before"):
        once.request(token, "POST", TARGET)
    with pytest.raises(Refused, match="received before"):
        once.take(also, BODY)


@pytest.mark.parametrize("use", [lambda once, also: once.take(also, BODY), Verifier.use_up], ids=["taken", "used up"])
def test_a_token_that_ends_before_its_body_does_is_refused(
    monkeypatch: pytest.MonkeyPatch, use: Callable[[Verifier, Caller], None]
) -> None:
    """A body may come for minutes: by then nobody remembers whether the token was taken before."""
    clock, running, late = Clock(), Running(), Clock()
    monkeypatch.setattr("goud_node.peer.tokens.time.monotonic", running)
    once = verifier(clock, running=running, since=running.now - 1000)
    monkeypatch.undo()
    late.now = clock.now + tokens.LEEWAY_SECONDS
    token = made(clock=late)
    also = once.request(token, "POST", TARGET)
    clock.now -= 3600  # a step of the wall clock gives it no time
    running.now += tokens.LIFETIME_SECONDS + 2 * tokens.LEEWAY_SECONDS
    with pytest.raises(Refused) as refused:
        use(once, also)
    assert refused.value.reason == "expired"
    running.now -= 1
    use(once, also)


def test_a_refused_attempt_does_not_use_up_the_request() -> None:
    once = verifier()
    token = made()
    with pytest.raises(Refused):
        take(once, token, b"other")
    take(once, token)


def test_a_full_memory_refuses_rather_than_forgets() -> None:
    small = verifier(entries=2)
    for _ in range(2):
        take(small, made())
    with pytest.raises(Refused) as caught:
        take(small, made())
    assert caught.value.reason == "overload"


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_no_other_algorithm_is_accepted(algorithm: str) -> None:
    claims = json.loads(base64.urlsafe_b64decode(made().split(".")[1] + "=="))
    forged = jwt.encode(claims, KEY.public.hex() if algorithm != "none" else "", algorithm=algorithm)
    with pytest.raises(Refused) as caught:
        check(forged)
    assert caught.value.reason == "forged"


@pytest.mark.parametrize("domain", [DOMAIN_ANSWER, DOMAIN_BLOCK])
def test_a_signature_of_another_domain_is_no_request(domain: bytes) -> None:
    assert domain != DOMAIN_REQUEST
    head, payload, _ = made().split(".")
    signature = KEY.sign(domain, f"{head}.{payload}".encode())
    with pytest.raises(Refused) as caught:
        check(f"{head}.{payload}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}")
    assert caught.value.reason == "forged"


def test_answers_are_bound_to_their_request() -> None:
    mine = Verifier("node1", {"node2": STRANGER.public}, Clock())
    answer = Signer(STRANGER, "node2", Clock()).answer("node1", "request-1", 200, BODY)
    mine.answer(answer, "node2", "request-1", 200, BODY)
    for issuer, request_id, status, body in [
        ("node3", "request-1", 200, BODY),
        ("node2", "request-2", 200, BODY),
        ("node2", "request-1", 503, BODY),
        ("node2", "request-1", 200, b"other"),
    ]:
        with pytest.raises(Refused):
            mine.answer(answer, issuer, request_id, status, body)
    with pytest.raises(Refused):
        mine.answer(None, "node2", "request-1", 200, BODY)
