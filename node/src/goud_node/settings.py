"""Settings of a node, all from the environment with the prefix GOUD_.

Every field has a description: the documentation table is generated from this module. Unknown or mistyped
GOUD_ variables are refused with the nearest name, because a typo must not silently leave a default in force.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ENV_PREFIX = "GOUD_"


class InvalidSettings(ValueError):
    """The environment does not make a configuration; the message names each variable and what is wrong."""


class SchemaPolicy(StrEnum):
    """What to do with a database of another schema version that no migration covers."""

    REFUSE = "refuse"
    REINITIALIZE = "reinitialize"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class DataDirectory(BaseSettings):
    """The settings that concern the data directory alone: all that `goud-node init` needs."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    data_dir: Path = Field(
        default=Path("/data"), description="Data directory: database, checkpoints, marker and generated secrets."
    )
    data_must_be_mount: bool = Field(
        default=True,
        description="Refuse to start unless the data directory is a mount point of its own; set to false for "
        "development on a plain directory.",
    )


class Settings(DataDirectory):
    """Configuration of one node process."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    node_id: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="Name of this node; must be a validator of the genesis file or an entry of the peers file.",
    )

    genesis_file: Path = Field(
        default=Path("/etc/goud/genesis.json"), description="Genesis document: chain name and validators' public keys."
    )
    node_key_file: Path = Field(
        default=Path("/etc/goud/node.key"), description="This node's Ed25519 private key, mode 0600."
    )
    peers_file: Path | None = Field(
        default=None,
        description='Peers as a JSON list of {"node_id", "url", "public_key"}; absent for a single node.',
    )
    operator_public_key: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="Ed25519 public key (hex) whose holder may make operator calls besides the node itself.",
    )

    etcd_endpoints: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="etcd members as host:port, separated by commas; empty means one node that orders by itself.",
    )
    standalone: bool = Field(
        default=False,
        description="Without etcd, order blocks alone although the genesis document names several validators, or, as "
        "an observer, only serve the blocks that are there: for a drill on a copy, never beside the other nodes.",
    )
    etcd_ca_file: Path | None = Field(default=None, description="Certificate authority of etcd, PEM.")
    etcd_cert_file: Path | None = Field(default=None, description="This node's client certificate for etcd, PEM.")
    etcd_key_file: Path | None = Field(default=None, description="Private key of the client certificate, PEM.")
    etcd_timeout_seconds: float = Field(default=1.0, gt=0, le=30, description="Deadline of one call to etcd.")
    lease_seconds: int = Field(
        default=2, ge=1, le=60, description="Lease of the proposer; an unplanned loss of it stops writes this long."
    )

    http_host: str = Field(default="127.0.0.1", description="Address of the public HTTP interface.")
    http_port: int = Field(default=8080, ge=0, le=65535, description="Port of the public HTTP interface; 0 picks one.")
    peer_host: str = Field(
        default="127.0.0.1", description="Address or name on which the signed peer interface listens."
    )
    peer_port: int = Field(default=9000, ge=0, le=65535, description="Port of the signed peer interface; 0 picks one.")

    jwt_secret_file: Path | None = Field(
        default=None,
        description="Token secrets, one a line: the first signs, all verify. Default: jwt_secret in the data "
        "directory, generated with mode 0600 when absent.",
    )
    session_secret_file: Path | None = Field(
        default=None,
        description="Secrets that wrap data keys inside tokens, one a line: the first wraps, all unwrap. Default: "
        "session_secret in the data directory, generated with mode 0600 when absent.",
    )
    token_ttl_seconds: int = Field(default=3600, ge=1, le=86400, description="Life of a session token.")
    key_cache_size: int = Field(default=10_000, ge=1, description="Verified tokens kept in memory (LRU).")

    schema_policy: SchemaPolicy = Field(
        default=SchemaPolicy.REFUSE,
        description="Database of another schema version without a migration: refuse (production) or reinitialize "
        "(development; the old database is moved aside).",
    )
    max_collection_bytes: int = Field(
        default=512 * 1024, ge=1024, le=512 * 1024, description="Largest collection accepted, as compact JSON."
    )
    submit_deadline_seconds: float = Field(
        default=3.5,
        gt=0,
        le=120,
        description="Longest a write waits for its block, from its arrival on, before it answers 503 (it did not "
        "happen) or 504 (it may have). Longer than an election takes.",
    )
    min_height_wait_seconds: float = Field(
        default=2.0, ge=0, le=30, description="Longest a read waits for the height named by its Goud-Min-Height header."
    )
    disk_full_percent: float = Field(
        default=95.0,
        gt=0,
        le=100,
        description="File-system use above which the node is not ready and refuses writes. However large the disk, "
        "2 GiB free are enough; and what the database needs to resume (5 % of the disk, at most 64 MiB) is always "
        "asked for.",
    )
    volume_refresh_seconds: float = Field(
        default=5.0, ge=0, description="Age after which volume figures are measured again."
    )
    checkpoint_ttl_seconds: int = Field(
        default=900, ge=1, le=86400, description="Life of a checkpoint whose client does not release it."
    )
    events_queue: int = Field(
        default=256, ge=1, description="Events buffered for one WebSocket; a slower client is disconnected."
    )
    events_send_seconds: float = Field(
        default=10.0,
        gt=0,
        le=300,
        description="Longest that events wait for a WebSocket that reads nothing; then it is cut off.",
    )
    events_connections: int = Field(
        default=1000,
        ge=1,
        description="WebSocket connections accepted at once; those of one account up to a tenth of it, but at least 8.",
    )
    peer_poll_seconds: float = Field(
        default=1.0, gt=0, le=60, description="Interval at which peers are asked for their height."
    )

    drain_delay_seconds: float = Field(
        default=2.0,
        ge=0,
        le=5,
        description="Time after SIGTERM during which requests are still accepted while /readyz says 503, so that the "
        "load balancer moves away first.",
    )
    shutdown_seconds: float = Field(
        default=3.0, gt=0, le=5, description="Time for requests in flight to finish after the drain delay."
    )
    log_level: str = Field(
        default="info", pattern=r"^(debug|info|warning|error)$", description="debug, info, warning or error."
    )
    log_format: LogFormat = Field(default=LogFormat.TEXT, description="text, or json (one object a line).")
    access_log: bool = Field(default=False, description="Log every request; costs about a fifth of the throughput.")

    @field_validator("etcd_endpoints", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @model_validator(mode="after")
    def _check_tls_files(self) -> Self:
        files = (self.etcd_ca_file, self.etcd_cert_file, self.etcd_key_file)
        if any(files) and not all(files):
            raise ValueError("etcd_ca_file, etcd_cert_file and etcd_key_file go together: give all three or none")
        return self

    @property
    def jwt_secret_path(self) -> Path:
        return self.jwt_secret_file or self.data_dir / "jwt_secret"

    @property
    def session_secret_path(self) -> Path:
        return self.session_secret_file or self.data_dir / "session_secret"

    @property
    def database_dir(self) -> Path:
        return self.data_dir / "rocksdb"

    @property
    def checkpoints_dir(self) -> Path:
        return self.data_dir / "checkpoints"


def variables() -> dict[str, str]:
    """Environment variable -> description, in the order of declaration."""
    return {ENV_PREFIX + name.upper(): field.description or "" for name, field in Settings.model_fields.items()}


def load() -> Settings:
    """Read the settings from the environment.

    Raises:
        InvalidSettings: a value is missing or wrong, or a GOUD_ variable is unknown (the nearest name is given).
    """
    complaints = _unknown_settings(os.environ)
    if complaints:
        raise InvalidSettings("; ".join(complaints))
    try:
        return Settings()
    except ValidationError as error:
        raise InvalidSettings(sentence(error)) from None


def _unknown_settings(names: Iterable[str]) -> list[str]:
    variable_names = list(variables())
    sentences = []
    for name in sorted(names):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in variable_names:
            suggestions = difflib.get_close_matches(name.upper(), variable_names, n=1, cutoff=0.5)
            hint = f"did you mean {suggestions[0]}?" if suggestions else "run `goud-node settings` for the list"
            sentences.append(f"unknown setting {name}: {hint}")
    return sentences


def sentence(error: ValidationError) -> str:
    """What is wrong, variable by variable."""
    parts = []
    for item in error.errors():
        name = ENV_PREFIX + "_".join(str(part) for part in item["loc"]).upper() if item["loc"] else "settings"
        reason = "is required" if item["type"] == "missing" else item["msg"]
        parts.append(f"{name}: {reason}")
    return "; ".join(parts) + "; run `goud-node settings` for the meaning of each"


def markdown() -> str:
    """The table of settings for the documentation."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        if field.is_required():
            default = "required"
        else:
            value = field.default
            text = "" if value is None or value == () else str(value).lower() if isinstance(value, bool) else str(value)
            default = f"`{text}`" if text else "—"
        rows.append(f"| `{ENV_PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"
