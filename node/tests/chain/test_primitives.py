"""Keys, canonical encoding, Merkle roots, blocks, genesis, certificates, transactions."""

from __future__ import annotations

import stat
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from goud_node.chain import encoding, genesis, transactions
from goud_node.chain.block import ENCODED_LIMIT, MAX_BLOCK_BYTES, Block, Header, build, merkle_root
from goud_node.chain.certificate import Certificate, countersign, countersigned
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import DOMAIN_BLOCK, DOMAIN_PERSISTED, SigningKey, verify
from goud_node.chain.transactions import AccountCreate, CollectionPut
from goud_node.errors import ConfigurationError, InvalidBlock, InvalidTransaction

from .support import GENESIS, KEYS, account, certificate_of, collection, simple_chain

IDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
TIMES = st.integers(0, 2**63 - 1)
ACCOUNTS = st.builds(
    AccountCreate, IDS, st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=64), TIMES
)
TAGS = [*range(310), 1004, 43_000, 55_799, 70_000, 2**40]
CONTENTS = [b"\x00", b"\x41\x00", b"\x59\x10\x00" + bytes(4096), b"\x61x", b"\x80", b"\x82\x00\x01", b"\xa0"]
COLLECTIONS = st.builds(
    CollectionPut,
    collection_id=IDS,
    account_id=IDS,
    idempotency_key=st.from_regex(r"[\x20-\x7e]{1,255}", fullmatch=True),
    fingerprint=st.binary(min_size=16, max_size=64),
    label=st.binary(max_size=100),
    payload=st.binary(max_size=300),
    created_ms=TIMES,
)
HEADERS = st.builds(
    Header,
    chain_id=st.text(max_size=30),
    height=st.integers(0, 2**64 - 1),
    previous=st.binary(min_size=32, max_size=32),
    timestamp_ms=TIMES,
    proposer=st.text(max_size=20),
    root=st.binary(min_size=32, max_size=32),
    count=st.integers(0, 2**32),
    schema=st.integers(0, 9),
)
BLOCKS = st.builds(
    Block, HEADERS, st.lists(st.binary(max_size=40), max_size=6).map(tuple), st.binary(min_size=64, max_size=64)
)


class TestKeys:
    def test_a_saved_key_loads_and_only_the_owner_reads_it(self, tmp_path: Path) -> None:
        key = SigningKey.generate()
        path = tmp_path / "node.key"
        key.save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert SigningKey.load(path).public == key.public

    def test_a_key_file_is_never_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "node.key"
        path.write_text("precious")
        with pytest.raises(ConfigurationError, match="never overwritten"):
            SigningKey.generate().save(path)
        assert path.read_text() == "precious"
        with pytest.raises(ConfigurationError, match="Cannot create"):
            SigningKey.generate().save(tmp_path / "missing" / "node.key")

    def test_what_is_no_ed25519_key_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "node.key"
        with pytest.raises(ConfigurationError, match="goud-node keygen"):
            SigningKey.load(path)
        path.write_text("hello")
        with pytest.raises(ConfigurationError, match="not an unencrypted PEM"):
            SigningKey.load(path)
        path.write_bytes(
            generate_private_key(SECP256R1()).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        with pytest.raises(ConfigurationError, match="not Ed25519"):
            SigningKey.load(path)

    @given(message=st.binary(max_size=64), flipped=st.integers(0, 511))
    @settings(max_examples=40)
    def test_only_this_key_message_and_domain_verify(self, message: bytes, flipped: int) -> None:
        key, other = KEYS["node1"], KEYS["node2"]
        signature = key.sign(DOMAIN_BLOCK, message)
        assert verify(key.public, DOMAIN_BLOCK, message, signature)
        assert not verify(other.public, DOMAIN_BLOCK, message, signature)
        assert not verify(key.public, DOMAIN_PERSISTED, message, signature)
        assert not verify(key.public, DOMAIN_BLOCK, message + b"x", signature)
        forged = bytearray(signature)
        forged[flipped // 8] ^= 1 << flipped % 8
        assert not verify(key.public, DOMAIN_BLOCK, message, bytes(forged))

    def test_malformed_keys_and_signatures_are_just_not_valid(self) -> None:
        signature = KEYS["node1"].sign(DOMAIN_BLOCK, b"m")
        assert not verify(b"short", DOMAIN_BLOCK, b"m", signature)
        assert not verify(KEYS["node1"].public, DOMAIN_BLOCK, b"m", signature[:63])


class TestEncoding:
    @given(st.binary(max_size=60))
    @settings(max_examples=300)
    def test_any_bytes_decode_canonically_or_not_at_all(self, raw: bytes) -> None:
        try:
            value = encoding.decode(raw)
        except encoding.NotCanonical:
            return
        assert encoding.encode(value) == raw

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"\x18\x01",  # 1 in two bytes
            b"\x9f\x01\xff",  # an array of indefinite length
            b"\x01\x01",  # trailing byte
            b"\xa2\x02\x00\x01\x00",  # map keys out of order
            b"\xa2\x01\x00\x01\x00",  # a map key twice
            b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",  # a string of 9 exabytes
            b"\x81" * 5000 + b"\x01",  # nested beyond all measure
            b"\xc1\x1a\x51\x4b\x67\xb0",  # a tagged date
        ],
    )
    def test_other_forms_are_refused(self, raw: bytes) -> None:
        with pytest.raises(encoding.NotCanonical):
            encoding.decode(raw)

    @pytest.mark.parametrize("value", [[1], [1, 2, 3], "no", [True, b""], [1, "x"], None])
    def test_records_have_exactly_their_types(self, value: Any) -> None:
        with pytest.raises(encoding.NotCanonical):
            encoding.record(value, (int, bytes))

    @pytest.mark.parametrize("content", CONTENTS)
    def test_no_tag_is_decoded(self, content: bytes) -> None:
        """A tag may hold a number of any length, or a reference: some hundred bytes that become gigabytes."""
        for tag in TAGS:
            tagged = cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1] + content
            for raw in (tagged, b"\x82\x00" + tagged):
                with pytest.raises(encoding.NotCanonical):
                    encoding.decode(raw)
                with pytest.raises(encoding.NotCanonical):
                    encoding.decode_trusted(raw)

    @pytest.mark.parametrize(
        "number", [2**64, -(2**64) - 1, 10**5000], ids=["65 bits", "65 bits, negative", "5000 digits"]
    )
    def test_a_number_that_cannot_be_printed_is_refused(self, number: int) -> None:
        with pytest.raises(InvalidTransaction):
            transactions.decode(cbor2.dumps([number]))
        with pytest.raises(encoding.NotCanonical):
            encoding.decode_trusted(cbor2.dumps(number))


def recursive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word: the independent definition."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01" + recursive_root(leaves[:split]) + recursive_root(leaves[split:])).digest()


class TestBlock:
    @given(st.lists(st.binary(max_size=8), max_size=40))
    def test_the_root_is_that_of_the_rfc(self, leaves: list[bytes]) -> None:
        assert merkle_root(leaves) == recursive_root(leaves)

    def test_known_roots_of_the_rfc_test_vectors(self) -> None:
        leaves = [bytes.fromhex(leaf) for leaf in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
        leaves.append(bytes.fromhex("606162636465666768696a6b6c6d6e6f"))
        assert merkle_root(leaves).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"

    @given(BLOCKS)
    def test_blocks_survive_a_round_trip(self, block: Block) -> None:
        again = Block.decode(block.encode())
        assert again == block
        assert again.hash == block.hash == sha256(encoding.encode(block.header.fields())).digest()
        assert replace(again).encode() == block.encode()

    @given(BLOCKS, st.data())
    def test_no_other_bytes_are_the_same_block(self, block: Block, data: st.DataObject) -> None:
        raw = bytearray(block.encode())
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        try:
            changed = Block.decode(bytes(raw))
        except InvalidBlock:
            return
        assert changed != block
        with pytest.raises(InvalidBlock):
            Block.decode(block.encode() + b"\x00")

    def test_oversize_and_foreign_shapes_are_refused(self) -> None:
        block = simple_chain(1)[0]
        with pytest.raises(InvalidBlock, match="limit"):
            Block.decode(bytes(ENCODED_LIMIT))
        for value in ([], [[], [], b""], [block.header.fields(), ["text"], b""], {"header": 1}, 5):
            with pytest.raises(InvalidBlock, match="not a block"):
                Block.decode(cbor2.dumps(value, canonical=True))

    def test_time_moves_on_even_when_the_clock_does_not(self) -> None:
        tip = GENESIS.block().header
        block = build(tip, [], proposer="node1", key=KEYS["node1"], timestamp_ms=tip.timestamp_ms - 500)
        assert block.header.timestamp_ms == tip.timestamp_ms + 1
        later = build(tip, [], proposer="node1", key=KEYS["node1"], timestamp_ms=tip.timestamp_ms + 500)
        assert later.header.timestamp_ms == tip.timestamp_ms + 500

    def test_a_full_batch_of_the_smallest_transactions_stays_below_the_limit(self) -> None:
        smallest = AccountCreate("a", bytes(32), bytes(16), 0).encode()
        body = [smallest] * (MAX_BLOCK_BYTES // len(smallest))
        block = build(GENESIS.block().header, body, proposer="node1", key=KEYS["node1"], timestamp_ms=2**62)
        assert len(block.encode()) < ENCODED_LIMIT


class TestGenesis:
    def test_the_document_survives_the_file(self, tmp_path: Path) -> None:
        genesis.dump(GENESIS, tmp_path / "genesis.json")
        loaded = genesis.load(tmp_path / "genesis.json")
        assert loaded == GENESIS
        assert loaded.chain_id == GENESIS.chain_id
        assert loaded.block().encode() == GENESIS.block().encode()
        with pytest.raises(ConfigurationError, match="never overwritten"):
            genesis.dump(GENESIS, tmp_path / "genesis.json")

    def test_the_chain_id_depends_on_every_field(self) -> None:
        others = [
            replace(GENESIS, name="other"),
            replace(GENESIS, created_ms=1_001),
            replace(GENESIS, validators=GENESIS.validators[:2]),
            replace(GENESIS, validators=GENESIS.validators[::-1]),
        ]
        ids = {other.chain_id for other in [GENESIS, *others]}
        assert len(ids) == 5
        assert all(len(chain_id) == 21 and chain_id.startswith("goud-") for chain_id in ids)

    @pytest.mark.parametrize(("count", "quorum"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
    def test_a_quorum_is_a_majority(self, count: int, quorum: int) -> None:
        validators = tuple(Validator(f"n{i}", bytes([i]) * 32) for i in range(count))
        assert Genesis("q", 0, validators).quorum == quorum

    def test_the_genesis_block_needs_no_proposer(self) -> None:
        block = GENESIS.block()
        assert (block.height, block.header.proposer, block.signature) == (0, "", b"")
        assert block.transactions == (GENESIS.document,)
        assert GENESIS.validator("node2") == GENESIS.validators[1]
        assert GENESIS.validator("stranger") is None

    @pytest.mark.parametrize(
        ("validators", "part"),
        [
            ((), "no validator"),
            ((Validator("a", bytes(32)), Validator("a", b"x" * 32)), "twice"),
            ((Validator("a", bytes(32)), Validator("b", bytes(32))), "twice"),
            ((Validator("a/b", bytes(32)),), "node id"),
            ((Validator("a", bytes(31)),), "31 bytes"),
        ],
    )
    def test_senseless_documents_are_refused(self, validators: tuple[Validator, ...], part: str) -> None:
        with pytest.raises(ConfigurationError, match=part):
            Genesis("bad", 0, validators)
        with pytest.raises(ConfigurationError, match="1970"):
            replace(GENESIS, created_ms=-1)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{}",
            '{"name": 1, "created_ms": 1, "validators": []}',
            '{"name": "a", "created_ms": 1, "validators": [], "nmae": "b"}',
            '{"name": "a", "created_ms": 1, "validators": [{"node_id": "a", "public_key": "zz"}]}',
            '{"name": "a", "created_ms": 1, "validators": [{"node_id": "a"}]}',
        ],
    )
    def test_bad_files_are_named(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "genesis.json"
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=r"genesis\.json"):
            genesis.load(path)
        with pytest.raises(ConfigurationError, match="Cannot read"):
            genesis.load(tmp_path / "missing.json")


class TestCertificate:
    def test_a_majority_is_enough_and_less_is_not(self) -> None:
        block = simple_chain(1)[0]
        certificate_of(block).verify(GENESIS)
        certificate_of(block, ["node1", "node3"]).verify(GENESIS)
        for signers in (["node2"], []):
            with pytest.raises(InvalidBlock, match="a majority is 2"):
                certificate_of(block, signers).verify(GENESIS)

    def test_forged_borrowed_and_foreign_signatures_do_not_count(self) -> None:
        block = simple_chain(1)[0]
        good = countersign(KEYS["node1"], block.hash)
        cases = {
            "another's signature": {"node1": good, "node2": good},
            "the proposer's signature": {"node1": good, "node2": KEYS["node2"].sign(DOMAIN_BLOCK, block.hash)},
            "for another block": {"node1": good, "node2": countersign(KEYS["node2"], bytes(32))},
        }
        for signatures in cases.values():
            with pytest.raises(InvalidBlock, match="1 valid"):
                Certificate(block.height, block.hash, signatures).verify(GENESIS)
        with pytest.raises(InvalidBlock, match="not a validator"):
            Certificate(block.height, block.hash, {"stranger": good}).verify(GENESIS)

    def test_single_countersignatures_can_be_checked_before_collecting(self) -> None:
        signature = countersign(KEYS["node1"], b"h" * 32)
        assert countersigned(GENESIS, "node1", b"h" * 32, signature)
        assert not countersigned(GENESIS, "node2", b"h" * 32, signature)
        assert not countersigned(GENESIS, "stranger", b"h" * 32, signature)

    @given(
        st.integers(0, 2**64 - 1),
        st.binary(min_size=32, max_size=32),
        st.dictionaries(st.text(max_size=8), st.binary(min_size=64, max_size=64), max_size=4),
    )
    def test_certificates_survive_a_round_trip(
        self, height: int, block_hash: bytes, signatures: dict[str, bytes]
    ) -> None:
        certificate = Certificate(height, block_hash, signatures)
        again = Certificate.decode(certificate.encode())
        assert (again.height, again.block_hash, dict(again.signatures)) == (height, block_hash, signatures)
        assert again.encode() == certificate.encode()

    @pytest.mark.parametrize(
        "value",
        [
            [1, bytes(32)],
            [1, bytes(31), []],
            [1, bytes(32), [["a", bytes(63)]]],
            [1, bytes(32), [["b", bytes(64)], ["a", bytes(64)]]],
            [1, bytes(32), [["a", bytes(64)], ["a", bytes(64)]]],
        ],
    )
    def test_malformed_certificates_are_refused(self, value: Any) -> None:
        with pytest.raises(InvalidBlock, match="not a certificate"):
            Certificate.decode(encoding.encode(value))


class TestTransactions:
    @given(ACCOUNTS | COLLECTIONS)
    def test_transactions_survive_a_round_trip(self, transaction: transactions.Transaction) -> None:
        raw = transactions.encode(transaction)
        assert transactions.decode(raw) == transactions.decode_trusted(raw) == transaction
        with pytest.raises(InvalidTransaction):
            transactions.decode(raw + b"\x00")

    @pytest.mark.parametrize(
        "transaction",
        [
            replace(account(), account_id=""),
            replace(account(), account_id="a" * 65),
            replace(account(), account_id="a\0b"),
            replace(account(), key_hash=bytes(31)),
            replace(account(), salt=bytes(15)),
            replace(account(), created_ms=-1),
            replace(collection("c"), collection_id="a/b"),
            replace(collection("c"), account_id="ä"),
            replace(collection("c"), idempotency_key=""),
            replace(collection("c"), idempotency_key="line\nbreak"),
            replace(collection("c"), fingerprint=b"short"),
            replace(collection("c"), label=bytes(3000)),
            replace(collection("c"), payload=bytes(514 * 1024)),
            replace(collection("c"), created_ms=2**63),
        ],
    )
    def test_limits_hold_when_writing_and_when_reading(self, transaction: transactions.Transaction) -> None:
        with pytest.raises(InvalidTransaction):
            transactions.encode(transaction)
        kind = 1 if isinstance(transaction, AccountCreate) else 2
        names = list(transaction.__dataclass_fields__)
        raw = encoding.encode([kind, *(getattr(transaction, name) for name in names)])
        with pytest.raises(InvalidTransaction):
            transactions.decode(raw)

    @pytest.mark.parametrize("value", [[], {}, 5, [3, "unknown"], [1, "too", "short"], [1, 2, 3, 4, 5]])
    def test_other_values_are_refused(self, value: Any) -> None:
        with pytest.raises(InvalidTransaction):
            transactions.decode(encoding.encode(value))

    def test_the_largest_collection_fits_into_a_block(self) -> None:
        largest = replace(collection("c"), payload=bytes(transactions.MAX_COLLECTION_BYTES + 28), label=bytes(1052))
        assert len(transactions.encode(largest)) < MAX_BLOCK_BYTES
