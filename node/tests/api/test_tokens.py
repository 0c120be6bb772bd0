"""Tokens: forged, expired and unsigned ones are refused, and keys rotate without a refused token."""

from __future__ import annotations

import base64
import errno
import json
import os
import stat
from pathlib import Path

import jwt
import pytest

from goud_node.api import vault
from goud_node.api.secrets import Keyring
from goud_node.api.tokens import InvalidToken, Tokens
from goud_node.api.vault import ApiKey
from goud_node.errors import ConfigurationError, StoreFull

OLD, NEW, OTHER = (name * 80 for name in (b"o", b"n", b"x"))
DATA_KEY = bytes(range(32))
ACCOUNT = "a" * 24


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def tokens(*signing: bytes, wrapping: tuple[bytes, ...] = (OTHER,), clock: Clock | None = None) -> Tokens:
    ring, wraps = Keyring(list(signing)), Keyring(list(wrapping))
    return Tokens(ring, wraps, ttl=60, cache_size=4, clock=clock or Clock())


def claims_of(token: str) -> dict[str, object]:
    claims: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return claims


def resigned(token: str, secret: bytes = OLD, algorithm: str = "HS256", **changes: object) -> str:
    kid = jwt.get_unverified_header(token)["kid"]
    return jwt.encode(claims_of(token) | changes, secret, algorithm=algorithm, headers={"kid": kid})


def test_a_token_carries_account_and_data_key() -> None:
    issued = tokens(OLD)
    token, expires = issued.issue(ACCOUNT, DATA_KEY)
    principal = issued.verify(token)
    assert (principal.account_id, principal.data_key, principal.expires) == (ACCOUNT, DATA_KEY, expires)


def test_the_data_key_is_not_readable_in_the_token() -> None:
    token, _ = tokens(OLD).issue(ACCOUNT, DATA_KEY)
    payload = base64.urlsafe_b64decode(token.split(".")[1] + "==")
    wrapped = base64.urlsafe_b64decode(json.loads(payload)["wk"].split(".")[1])
    assert DATA_KEY not in wrapped
    assert DATA_KEY.hex() not in payload.decode()


def test_another_node_with_the_same_secrets_serves_it() -> None:
    token, _ = tokens(OLD).issue(ACCOUNT, DATA_KEY)
    assert tokens(OLD).verify(token).data_key == DATA_KEY


def test_rotation_with_overlap_refuses_no_token() -> None:
    before, appended, moved, dropped = tokens(OLD), tokens(OLD, NEW), tokens(NEW, OLD), tokens(NEW)
    old_token, _ = before.issue(ACCOUNT, DATA_KEY)
    for stage in (appended, moved):
        assert stage.verify(old_token).account_id == ACCOUNT
    new_token, _ = moved.issue(ACCOUNT, DATA_KEY)
    # A node that has not moved on yet knows the new secret already.
    assert appended.verify(new_token).account_id == ACCOUNT
    assert dropped.verify(new_token).account_id == ACCOUNT
    with pytest.raises(InvalidToken, match="does not accept"):
        dropped.verify(old_token)


def test_session_secrets_rotate_alike() -> None:
    token, _ = tokens(OLD, wrapping=(OTHER,)).issue(ACCOUNT, DATA_KEY)
    assert tokens(OLD, wrapping=(NEW, OTHER)).verify(token).data_key == DATA_KEY
    with pytest.raises(InvalidToken, match="session secret"):
        tokens(OLD, wrapping=(NEW,)).verify(token)


def test_an_expired_token_is_refused_fresh_or_cached() -> None:
    clock = Clock()
    issued = tokens(OLD, clock=clock)
    cached, _ = issued.issue(ACCOUNT, DATA_KEY)
    fresh, _ = issued.issue(ACCOUNT, DATA_KEY)
    issued.verify(cached)
    clock.now += 61
    for token in (cached, fresh):
        with pytest.raises(InvalidToken, match="expired"):
            issued.verify(token)


def test_forged_tokens_are_refused() -> None:
    issued = tokens(OLD)
    token, expires = issued.issue(ACCOUNT, DATA_KEY)
    head, payload, signature = token.split(".")
    none = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": Keyring([OLD]).current.kid}).encode())
    forged = [
        resigned(token, secret=NEW),
        resigned(token, algorithm="HS512"),
        resigned(token, iss="somebody"),
        resigned(token, exp="tomorrow"),
        resigned(token, exp=expires + 0.5),
        resigned(token, sub="b" * 24),
        resigned(token, jti="0" * 32),
        resigned(token, wk="nonsense"),
        resigned(token, wk=None),
        f"{none.decode().rstrip('=')}.{payload}.",
        f"{head}.{payload}.",
        f"{head}.{payload}.{'A' * len(signature)}",
        f"{head}.{payload}",
        "",
        "a.b.c",
        "\ud800",
    ]
    for attempt in forged:
        with pytest.raises(InvalidToken):
            issued.verify(attempt)
    assert issued.verify(token).account_id == ACCOUNT


def test_a_wrapped_key_cannot_be_moved_into_another_token() -> None:
    issued = tokens(OLD)
    mine, _ = issued.issue(ACCOUNT, DATA_KEY)
    other, _ = issued.issue("b" * 24, bytes(32))
    with pytest.raises(InvalidToken, match="data key"):
        issued.verify(resigned(other, wk=claims_of(mine)["wk"]))


def test_the_cache_is_bounded_and_counted() -> None:
    issued = tokens(OLD)
    made = [issued.issue(ACCOUNT, DATA_KEY)[0] for _ in range(6)]
    for token in made:
        issued.verify(token)
    issued.verify(made[-1])
    issued.verify(made[0])
    assert (issued.hits, issued.misses) == (1, 7)


def test_secrets_are_generated_once_with_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "jwt_secret"
    first = Keyring.load(path, generate=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    written = path.read_bytes()
    assert Keyring.load(path, generate=True).current == first.current
    assert path.read_bytes() == written
    assert len(first.current.value) >= 64


@pytest.mark.parametrize("cut", ["the disk is full", "the process ends"])
def test_a_first_start_that_is_cut_leaves_no_half_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    def end(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device") if cut == "the disk is full" else KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", end)
    with pytest.raises(StoreFull if cut == "the disk is full" else KeyboardInterrupt):
        Keyring.load(tmp_path / "jwt_secret", generate=True)
    monkeypatch.undo()
    assert not (tmp_path / "jwt_secret").exists()
    assert len(Keyring.load(tmp_path / "jwt_secret", generate=True).current.value) >= 64


def test_a_link_to_a_secret_that_is_missing_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "jwt_secret").symlink_to(tmp_path / "supplied")
    with pytest.raises(ConfigurationError, match="No such file"):
        Keyring.load(tmp_path / "jwt_secret", generate=True)
    assert (tmp_path / "jwt_secret").is_symlink()


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("short\n", 0o600, "at least 32"),
        ("\n\n", 0o600, "at least 32"),
        ("x" * 40, 0o644, "chmod 600"),
        ("x" * 40, 0o640, "chmod 600"),
    ],
)
def test_bad_secret_files_are_refused(tmp_path: Path, text: str, mode: int, words: str) -> None:
    path = tmp_path / "secret"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=words) as caught:
        Keyring.load(path, generate=True)
    assert str(path) in str(caught.value)
    assert path.read_text() == text


def test_a_configured_secret_file_is_never_generated(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        Keyring.load(tmp_path / "absent", generate=False)
    assert not (tmp_path / "absent").exists()


def test_api_keys_round_trip_and_match_in_full_only() -> None:
    key = ApiKey.generate()
    assert ApiKey.parse(str(key)) == key
    assert key.matches(key.key_hash)
    assert not ApiKey(key.account_id, key.secret + "x").matches(key.key_hash)
    assert not ApiKey("0" * 24, key.secret).matches(key.key_hash)


def test_ciphertext_is_bound_to_its_place() -> None:
    sealed = vault.seal(DATA_KEY, b"text", "account", "id", "label")
    assert vault.unseal(DATA_KEY, sealed, "account", "id", "label") == b"text"
    for place in [("account", "id", "payload"), ("account", "other", "label"), ("accounti", "d", "label")]:
        with pytest.raises(vault.Undecryptable):
            vault.unseal(DATA_KEY, sealed, *place)
    for damaged in (sealed[:-1], b"", sealed[:5], bytes([sealed[0] ^ 1]) + sealed[1:]):
        with pytest.raises(vault.Undecryptable):
            vault.unseal(DATA_KEY, damaged, "account", "id", "label")
    with pytest.raises(vault.Undecryptable):
        vault.unseal(bytes(32), sealed, "account", "id", "label")
    assert vault.seal(DATA_KEY, b"text", "account", "id", "label") != sealed


def test_fingerprints_tell_contents_apart() -> None:
    assert vault.fingerprint(DATA_KEY, b"a", b"bc") == vault.fingerprint(DATA_KEY, b"a", b"bc")
    assert vault.fingerprint(DATA_KEY, b"a", b"bc") != vault.fingerprint(DATA_KEY, b"ab", b"c")
    assert vault.fingerprint(DATA_KEY, b"a") != vault.fingerprint(bytes(32), b"a")
