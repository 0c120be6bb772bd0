"""The composition root: builds every part of a node from its settings, and takes it apart again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fastapi import FastAPI

from goud_node import __version__, clock
from goud_node.agreement.kv import Kv
from goud_node.agreement.sequencer import Sequencer
from goud_node.api.app import create_app
from goud_node.api.context import Context
from goud_node.api.events import Broadcaster
from goud_node.api.secrets import Keyring
from goud_node.api.tokens import Tokens
from goud_node.chain.ledger import Ledger
from goud_node.chain.volume import open_volume
from goud_node.peer.checkpoints import OperatorCheckpoints
from goud_node.peer.client import PeerClient
from goud_node.peer.server import PeerContext, create_peer_app
from goud_node.peer.tokens import OPERATOR, Signer, Verifier
from goud_node.replica.replica import Replica
from goud_node.replica.types import Hooks, Options
from goud_node.service import ordering
from goud_node.service.disk import DiskWatch
from goud_node.service.identity import Identity
from goud_node.settings import Settings
from goud_node.store import RocksStore
from goud_node.store.checkpoint import Checkpoints
from goud_node.store.schema import SchemaPolicy
from goud_node.store.space import Space
from goud_node.store.volume import Volume
from goud_node.telemetry import Metrics


@dataclass
class Node:
    """Every part of a running node. Build it inside a running event loop; close it once everything has stopped."""

    settings: Settings
    identity: Identity
    store: RocksStore
    ledger: Ledger
    executor: ThreadPoolExecutor
    kv: Kv
    peers: PeerClient
    replica: Replica
    metrics: Metrics
    checkpoints: OperatorCheckpoints
    broadcaster: Broadcaster
    disk: DiskWatch
    api: FastAPI
    peer_api: FastAPI

    async def close(self) -> None:
        """Finish writes, then release every connection and the database's lock."""
        self.executor.shutdown(wait=True)
        await self.peers.close()
        await self.kv.close()
        self.store.close()


def build(settings: Settings, identity: Identity, start_time: float | None = None) -> Node:
    """Open the volume and put the node together. Raises the errors of `open_volume`, ConfigurationError.

    `start_time` is the running clock's time before which this process did not listen yet; now, if it is not given.
    """
    start_time = clock.running() if start_time is None else start_time
    store, ledger = open_volume(
        settings.data_dir,
        identity.genesis,
        must_be_mount=settings.data_must_be_mount,
        policy=SchemaPolicy(settings.schema_policy.value),
    )
    try:
        return _assemble(settings, identity, store, ledger, start_time)
    except BaseException:
        store.close()
        raise


def _assemble(settings: Settings, identity: Identity, store: RocksStore, ledger: Ledger, start_time: float) -> Node:
    # Only now: a secret is never generated on a volume that has not been proven to be ours.
    tokens = _tokens(settings)
    executor = ThreadPoolExecutor(1, thread_name_prefix="ledger")
    kv = ordering.connect(settings, store, executor)
    metrics = Metrics()
    signer = Signer(identity.key, settings.node_id)
    verifier = _verifier(settings, identity, start_time)
    peers = PeerClient(
        identity.peers, identity.genesis.chain_id, signer, verifier, forward_seconds=settings.submit_deadline_seconds
    )
    space = Space(store, settings.data_dir, settings.disk_full_percent)
    replica = Replica(
        ledger,
        Sequencer(kv, identity.genesis.chain_id, settings.node_id),
        peers,
        identity.key,
        settings.node_id,
        clock=clock.wall_ms,
        validator=identity.validator,
        options=Options(
            alone=not settings.etcd_endpoints,
            lease_ttl=settings.lease_seconds,
            submit_deadline=settings.submit_deadline_seconds,
        ),
        hooks=Hooks(
            committed=metrics.coordination.observe,
            created=metrics.block_creation.observe,
            batched=metrics.batch.observe,
            shortage=space.shortage,
        ),
        executor=executor,
    )
    checkpoints = OperatorCheckpoints(Checkpoints(store, settings.checkpoints_dir), ttl=settings.checkpoint_ttl_seconds)
    context = Context(
        settings=settings,
        genesis=identity.genesis,
        ledger=ledger,
        replica=replica,
        peers=peers,
        tokens=tokens,
        metrics=metrics,
        volume=Volume(store, settings.data_dir, max_age=settings.volume_refresh_seconds).metrics,
        room=space.room,
        version=__version__,
    )
    metrics.watch(context.snapshot)
    broadcaster = Broadcaster(context)
    peer_context = PeerContext(
        node_id=settings.node_id,
        genesis=identity.genesis,
        ledger=ledger,
        replica=replica,
        checkpoints=checkpoints,
        verifier=verifier,
        signer=signer,
        metrics=metrics,
        version=context.version,
    )
    return Node(
        settings=settings,
        identity=identity,
        store=store,
        ledger=ledger,
        executor=executor,
        kv=kv,
        peers=peers,
        replica=replica,
        metrics=metrics,
        checkpoints=checkpoints,
        broadcaster=broadcaster,
        disk=DiskWatch(space, executor),
        api=create_app(context, broadcaster),
        peer_api=create_peer_app(peer_context),
    )


def _tokens(settings: Settings) -> Tokens:
    # A file that was configured is supplied by the operator: generating one in its place would hide that it is missing.
    signing_keys = Keyring.load(settings.jwt_secret_path, generate=settings.jwt_secret_file is None)
    wrapping_keys = Keyring.load(settings.session_secret_path, generate=settings.session_secret_file is None)
    return Tokens(signing_keys, wrapping_keys, ttl=settings.token_ttl_seconds, cache_size=settings.key_cache_size)


def _verifier(settings: Settings, identity: Identity, start_time: float) -> Verifier:
    keys = dict(identity.keys)
    if settings.operator_public_key is not None:
        keys[OPERATOR] = bytes.fromhex(settings.operator_public_key)
    return Verifier(settings.node_id, keys, since=start_time)
