"""Encodings and sealing: what goes in comes out, and nothing else does."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pyrage
import pytest

from goud_backup.codec.encoding import GZIP, RAW, decode, encode, gunzip
from goud_backup.codec.sealing import FRAME, Opener, Sealer, check_recipients, load_identities
from goud_backup.errors import Damaged, WrongIdentity
from goud_node.errors import ConfigurationError

IDENTITY = pyrage.x25519.Identity.generate()
SEALER = Sealer([str(IDENTITY.to_public())])
OPENER = Opener([IDENTITY])
SIZES = [0, 1, FRAME - 1, FRAME, FRAME + 1, 2 * FRAME, 3 * FRAME + 5]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sealer", [None, SEALER])
@pytest.mark.parametrize("random", [True, False])
def test_round_trip(size: int, sealer: Sealer | None, *, random: bool) -> None:
    plain = os.urandom(size) if random else b"a" * size
    encoded = encode(plain, sealer)
    assert encoded.encoding.endswith(RAW if random or size < 40 else GZIP)
    assert bytes(decode(encoded.data, encoded.encoding, size, OPENER, "x")) == plain
    if not random and size > 100:
        assert len(encoded.data) < 20_000


def test_what_does_not_shrink_is_not_copied() -> None:
    plain = memoryview(bytearray(os.urandom(1_000_000)))
    assert encode(plain, None).data is plain


@pytest.mark.parametrize("size", SIZES)
def test_every_change_of_sealed_bytes_is_seen(size: int) -> None:
    sealed = bytes(SEALER.seal(os.urandom(size)))
    head = len(sealed) - size - 16 * max(1, -(-size // FRAME))
    for place in {0, 9, head - 1, head, len(sealed) - 1, (head + len(sealed)) // 2}:
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises((Damaged, WrongIdentity)):
            OPENER.open(changed, "x")
    for cut in {1, 16, size // 2, len(sealed) - 8}:
        if cut:
            with pytest.raises((Damaged, WrongIdentity)):
                OPENER.open(sealed[: len(sealed) - cut], "x")
    with pytest.raises(Damaged):
        OPENER.open(sealed + b"x", "x")


def test_frames_can_not_be_dropped_or_exchanged() -> None:
    sealed = bytes(SEALER.seal(os.urandom(3 * FRAME)))
    head = len(sealed) - 3 * (FRAME + 16)
    frames = [sealed[head + n * (FRAME + 16) : head + (n + 1) * (FRAME + 16)] for n in range(3)]
    for order in ([0, 1], [1, 0, 2], [0, 2], [0, 1, 2, 2]):
        with pytest.raises(Damaged):
            OPENER.open(sealed[:head] + b"".join(frames[n] for n in order), "x")


def test_two_seals_of_the_same_bytes_differ() -> None:
    assert bytes(SEALER.seal(b"same")) != bytes(SEALER.seal(b"same"))


def test_the_wrong_identity_and_none() -> None:
    sealed = SEALER.seal(b"x")
    with pytest.raises(WrongIdentity, match="other recipients"):
        Opener([pyrage.x25519.Identity.generate()]).open(sealed, "x")
    with pytest.raises(WrongIdentity, match="--identity"):
        Opener([]).open(sealed, "x")
    with pytest.raises(WrongIdentity, match="encrypted"):
        decode(sealed, "sealed+raw", 1, None, "x")


def test_a_bomb_is_not_unpacked() -> None:
    with pytest.raises(Damaged, match="longer than the 1000 bytes"):
        gunzip(gzip.compress(bytes(50_000_000)), 1000, "x")
    with pytest.raises(Damaged):
        gunzip(gzip.compress(b"x" * 100)[:-4], 100, "x")
    with pytest.raises(Damaged, match="unknown encoding"):
        decode(b"", "lzma", 0, None, "x")


def test_identity_files(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# the safe\n\n{IDENTITY}\n")
    assert len(load_identities(path)) == 1
    path.write_text("AGE-SECRET-KEY-1NOTONE\n")
    with pytest.raises(ConfigurationError, match="not an age identity") as refused:
        load_identities(path)
    assert "NOTONE" not in str(refused.value)
    path.write_text("# nothing\n")
    with pytest.raises(ConfigurationError, match="holds no age identity"):
        load_identities(path)
    with pytest.raises(ConfigurationError, match="Cannot read"):
        load_identities(tmp_path / "none")


def test_recipients() -> None:
    text = str(IDENTITY.to_public())
    assert check_recipients([text, text]) == (text,)
    with pytest.raises(ConfigurationError, match="not an age recipient"):
        check_recipients(["age1x"])
    with pytest.raises(ConfigurationError, match="never give one here") as refused:
        check_recipients([str(IDENTITY)])
    assert str(IDENTITY) not in str(refused.value)
