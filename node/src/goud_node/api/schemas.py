"""Shapes of requests and answers, for validation of the first and documentation of both.

Times ending in `_ms` are Unix time in milliseconds; binary values are lower-case hex; heights count from genesis = 0.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

HASH = r"^[0-9a-f]{64}$"
ID = r"^[A-Za-z0-9_-]{1,64}$"
CURSOR = r"^[0-9a-f]{24}$"
IDEMPOTENCY_KEY = r"^[\x21-\x7e]{1,255}$"

Hash = Annotated[str, Field(pattern=HASH)]


class Alive(BaseModel):
    status: Literal["alive"]


class Check(BaseModel):
    ok: bool
    detail: str = Field(description="What was found, and what to do when it is not in order.")


class Readiness(BaseModel):
    status: Literal["ready"]
    checks: dict[str, Check] = Field(description="store, disk, synced, quorum, clock, draining.")


class LatestBlock(BaseModel):
    height: int
    hash: Hash
    timestamp_ms: int
    proposer: str | None = Field(description="None for the genesis block.")


class Health(BaseModel):
    status: Literal["healthy", "degraded", "draining", "halted"]
    node_id: str
    chain_id: str
    version: str
    chain_length: int = Field(description="Blocks on this node, genesis included.")
    peer_count: int = Field(description="Peers that answered within the last polls.")
    latest_block: LatestBlock
    certified_height: int
    role: str
    proposer: str | None
    epoch: int | None
    lag: int = Field(description="Blocks known to be ordered that this node does not hold yet.")
    schema_version: int = Field(alias="schema")
    quorum: bool
    synced: bool
    draining: bool
    halted: str | None


class VolumeFigures(BaseModel):
    disk_used_bytes: int
    disk_used_mb: int
    mount_path: str
    rocksdb_present: bool
    sst_file_count: int
    disk_capacity_bytes: int
    disk_free_bytes: int
    disk_needed_bytes: int = Field(description="Below that many free bytes writes are refused (507 `disk-full`).")


class MetricsDocument(BaseModel):
    node_id: str
    chain_length: int
    certified_height: int
    peer_count: int
    proposer: str | None
    epoch: int | None
    lag: int
    key_cache_hit_rate: float | None = Field(description="None before the first lookup.")
    volume_metrics: VolumeFigures


class AccountCreated(BaseModel):
    account_id: str
    api_key: str = Field(description="Shown this once: whoever has it reads what the account stores.")
    created_ms: int
    height: int


class SessionRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    api_key: str = Field(min_length=1, max_length=200, description="The key that POST /api/accounts answered with.")


class Session(BaseModel):
    token: str
    token_type: Literal["Bearer"]
    account_id: str
    expires: int = Field(description="Unix time in seconds.")
    expires_at: str = Field(description="The same moment as ISO 8601, in UTC.", examples=["2026-01-31T12:00:00Z"])


class CollectionRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    label: str = Field(min_length=1, max_length=200, description="Name of the collection; encrypted like the payload.")
    payload: JsonValue = Field(
        description="Any JSON value. Numbers with a fraction or an exponent are kept as the nearest binary64, integers "
        "with all their digits; a name that is given twice, or a number that would become 0, is refused."
    )


class CollectionCreated(BaseModel):
    collection_id: str
    height: int = Field(description="Height of the block that holds it; send it as Goud-Min-Height to read it back.")
    index: int
    block_hash: Hash
    idempotency_key: str


class Collection(BaseModel):
    collection_id: str
    label: str
    payload: JsonValue
    created_ms: int
    height: int
    index: int


class CollectionEntry(BaseModel):
    collection_id: str
    label: str
    size: int = Field(description="Bytes of the payload as compact JSON.")
    created_ms: int
    height: int
    index: int


class CollectionPage(BaseModel):
    collections: list[CollectionEntry]
    next_cursor: str | None


class AuditEntry(BaseModel):
    action: str
    subject_id: str
    timestamp_ms: int
    height: int
    index: int


class AuditPage(BaseModel):
    entries: list[AuditEntry]
    next_cursor: str | None


class BlockSummary(BaseModel):
    height: int
    hash: Hash
    previous: Hash
    timestamp_ms: int
    proposer: str | None
    root: Hash
    count: int = Field(description="Transactions in the block.")
    schema_version: int = Field(alias="schema")
    size: int = Field(description="Bytes of the encoded block.")
    certified: bool


class TransactionSummary(BaseModel):
    index: int
    kind: Literal["genesis", "account.create", "collection.put"]
    id: str
    size: int


class BlockDetail(BlockSummary):
    signature: str
    transactions: list[TransactionSummary]
    certificate: dict[str, str] | None = Field(description="Countersignatures by validator; None until certified.")


class BlockPage(BaseModel):
    blocks: list[BlockSummary] = Field(description="In ascending order of height.")
    next_start: int | None = Field(description="Pass it as `start` for the next page; None at the tip.")


class ValidatorEntry(BaseModel):
    node_id: str
    public_key: str
    proposer: bool
    reachable: bool = Field(description="It answered this node's last polls; this node itself is reachable.")


class ValidatorList(BaseModel):
    chain_id: str
    quorum: int
    validators: list[ValidatorEntry]


class PeerEntry(BaseModel):
    node_id: str
    reachable: bool
    height: int | None = Field(description="As of its last answer; None when it never answered.")
    answered_ms: int | None = Field(description="When it last answered.")
    round_trip_ms: float | None


class PeerList(BaseModel):
    peers: list[PeerEntry]


class Stats(BaseModel):
    chain_length: int
    certified_height: int
    accounts: int
    collections: int
    transactions: int
    payload_bytes: int = Field(description="Ciphertext of all labels and payloads.")


Document = dict[str, Any]
