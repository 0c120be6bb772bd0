"""Prometheus collectors of one node, and its logging.

Figures that describe state (height, lag, disk) are read when they are scraped, from a function the node supplies,
so that a figure can never be older than the scrape. Figures that describe events are observed as they happen.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """State of a node at one moment, as a scrape shows it; sizes in bytes, heights and lag in blocks."""

    node_id: str
    chain_id: str
    version: str
    schema: int
    height: int
    certified_height: int
    lag: int
    epoch: int
    proposer: str | None
    quorum: bool
    synced: bool
    draining: bool
    clock_right: bool
    block_ahead: float
    halted: bool
    peers_live: int
    peers_known: int
    cache_hits: int
    cache_misses: int
    disk_used: int
    disk_used_mb: int
    disk_capacity: int
    disk_free: int
    disk_needed: int
    disk_full: bool
    rocksdb_present: bool
    sst_files: int
    accounts: int
    collections: int

    @property
    def chain_length(self) -> int:
        """Number of blocks, genesis included."""
        return self.height + 1

    @property
    def cache_hit_rate(self) -> float | None:
        """Share of lookups answered from the key cache since the start; None before the first lookup."""
        lookups = self.cache_hits + self.cache_misses
        return self.cache_hits / lookups if lookups else None


class _State(Collector):
    """Turns a Snapshot into metric families at scrape time."""

    def __init__(self, source: Callable[[], Snapshot]) -> None:
        self._source = source

    def describe(self) -> Iterator[Metric]:
        # Registering must not read the node, which may not run yet.
        return iter(())

    def collect(self) -> Iterator[Metric]:
        snapshot = self._source()
        for name, text, value in _gauges(snapshot):
            yield GaugeMetricFamily(name, text, value=value)
        yield CounterMetricFamily("goud_key_cache_hits", "Key cache lookups that hit.", value=snapshot.cache_hits)
        yield CounterMetricFamily(
            "goud_key_cache_misses", "Key cache lookups that missed.", value=snapshot.cache_misses
        )
        info = GaugeMetricFamily(
            "goud_node_info", "Identity of the node; always 1.", labels=["node_id", "chain_id", "version", "schema"]
        )
        info.add_metric([snapshot.node_id, snapshot.chain_id, snapshot.version, str(snapshot.schema)], 1)
        yield info
        leader = GaugeMetricFamily("goud_proposer_info", "The proposer this node knows; always 1.", labels=["proposer"])
        if snapshot.proposer is not None:
            leader.add_metric([snapshot.proposer], 1)
        yield leader


def _gauges(snapshot: Snapshot) -> Iterator[tuple[str, str, float]]:
    rate = snapshot.cache_hit_rate
    yield "goud_volume_disk_used_bytes", "Bytes this node's database occupies.", snapshot.disk_used
    yield "goud_volume_disk_used_mb", "Mebibytes this node's database occupies.", snapshot.disk_used_mb
    yield "goud_volume_disk_capacity_bytes", "Size of the file system that holds the data.", snapshot.disk_capacity
    yield "goud_volume_disk_free_bytes", "Bytes of that file system still available.", snapshot.disk_free
    yield "goud_volume_disk_needed_bytes", "Bytes that must be available, or writes are refused.", snapshot.disk_needed
    yield "goud_volume_disk_full", "1 while this node refuses writes for want of disk space.", snapshot.disk_full
    yield "goud_volume_rocksdb_present", "1 when the data directory holds a database.", snapshot.rocksdb_present
    yield "goud_volume_sst_files", "Live sorted string table files.", snapshot.sst_files
    yield "goud_chain_length", "Blocks of the chain on this node, genesis included.", snapshot.chain_length
    yield "goud_certified_height", "Height up to which every block has its certificate.", snapshot.certified_height
    yield "goud_chain_lag_blocks", "Blocks this node is behind the agreed head.", snapshot.lag
    yield "goud_epoch", "Agreement epoch.", snapshot.epoch
    yield "goud_proposer", "1 when this node is the proposer.", snapshot.proposer == snapshot.node_id
    yield "goud_quorum", "1 when this node reaches a quorum of the coordination service.", snapshot.quorum
    yield "goud_synced", "1 when this node holds the agreed head.", snapshot.synced
    yield "goud_draining", "1 while this node is being drained.", snapshot.draining
    yield "goud_halted", "1 when this node stopped because of a conflicting block.", snapshot.halted
    yield (
        "goud_clock_right",
        "1 while a majority of validators is known to have this node's time.",
        snapshot.clock_right,
    )
    yield (
        "goud_block_ahead_seconds",
        "How far the newest block's time is ahead of this node's clock.",
        snapshot.block_ahead,
    )
    yield "goud_peer_count", "Peers that answered within the last polls.", snapshot.peers_live
    yield "goud_peers_known", "Peers in the configuration.", snapshot.peers_known
    yield "goud_key_cache_hit_rate", "Hit share of the key cache; NaN before a lookup.", _nan(rate)
    yield "goud_accounts", "Accounts on the chain.", snapshot.accounts
    yield "goud_collections", "Collections on the chain.", snapshot.collections


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


class Metrics:
    """All collectors of one node in a registry of their own, so that several nodes fit into one process."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        self.block_creation: Final = Histogram(
            "goud_block_creation_seconds",
            "Time from batching queued transactions to their durable block, on the proposer.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.commit_latency: Final = Histogram(
            "goud_commit_latency_seconds",
            "Time from a write's arrival at this node to its durable block.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.coordination: Final = Histogram(
            "goud_coordination_commit_seconds",
            "Duration of the transaction that orders one block.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch: Final = Histogram(
            "goud_block_transactions",
            "Transactions in a block this node proposed.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
            registry=self.registry,
        )
        self.requests: Final = Histogram(
            "goud_http_request_seconds",
            "Duration of HTTP requests by route template.",
            ["method", "route", "status"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight: Final = Gauge(
            "goud_http_requests_in_flight", "HTTP requests being served.", registry=self.registry
        )
        self.sockets: Final = Gauge("goud_websocket_connections", "Open event streams.", registry=self.registry)
        self.dropped: Final = Counter(
            "goud_websocket_dropped", "Event streams closed because the client was too slow.", registry=self.registry
        )
        self.peer_refused: Final = Counter(
            "goud_peer_refused", "Peer requests refused, by reason.", ["reason"], registry=self.registry
        )
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def watch(self, source: Callable[[], Snapshot]) -> None:
        """Read the node's state at every scrape from now on."""
        self.registry.register(_State(source))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The scrape's body and content type for an Accept header; the plain format for one that is none."""
        try:
            encoder, content_type = choose_encoder(accept)
        except (ValueError, TypeError):  # the library compares versions as numbers
            encoder, content_type = choose_encoder("text/plain")
        return encoder(self.registry), content_type


class Seldom:
    """Lets a thing that may repeat without end be logged once a minute."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._last_times: dict[str, float] = {}

    def allows(self, name: str) -> bool:
        """Whether a line about `name` is due; the caller then writes it. Names must come from a bounded set."""
        now = time.monotonic()
        if now - self._last_times.get(name, float("-inf")) < self._seconds:
            return False
        self._last_times[name] = now
        return True


class Lasting:
    """What may go on for long is logged when it begins, once a minute while it lasts, and when it is over.

    What comes back within the minute is logged no sooner than after it, so what comes and goes does not fill the log.
    """

    def __init__(self, seconds: float = 60.0) -> None:
        self._seldom = Seldom(seconds)
        self._starts: dict[str, float] = {}
        self._announced_names: set[str] = set()

    def goes_on(self, name: str) -> bool:
        """Whether a line about `name`, which began or lasts, is due. Names must come from a bounded set."""
        self._starts.setdefault(name, time.monotonic())
        if not self._seldom.allows(name):
            return False
        self._announced_names.add(name)
        return True

    def ends(self, name: str) -> float | None:
        """How many seconds `name` lasted, when its end is worth a line: it lasted, and the log says so."""
        start = self._starts.pop(name, None)
        if start is None or name not in self._announced_names:
            return None
        self._announced_names.remove(name)
        return time.monotonic() - start


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure_logging(level: str, *, as_json: bool) -> None:
    """Send every log record to stderr, as text or as one JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonFormatter() if as_json else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # The server says so of every refused event stream, although the refusal was sent as the specification has it.
    logging.getLogger("uvicorn.error").addFilter(lambda record: "without completing handshake" not in record.msg)
    for logger_name in ("httpx", "httpcore", "uvicorn.error"):
        logging.getLogger(logger_name).setLevel(logging.WARNING)
