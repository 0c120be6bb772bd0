"""The epoch of a stopped node: its own database opened, the log asked, nothing followed and nothing served."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from goud_node.agreement.sequencer import Sequencer
from goud_node.chain.ledger import Ledger
from goud_node.chain.volume import open_volume
from goud_node.errors import CoordinationFull
from goud_node.replica import epochs
from goud_node.replica.epochs import Outcome, ProposerRuns, Survey
from goud_node.service import identity as identities
from goud_node.service import ordering
from goud_node.settings import Settings

T = TypeVar("T")
_LEASE_SLACK = 2.0


@dataclass(frozen=True)
class _StoppedNode:
    """A node that does not run, with its log."""

    settings: Settings
    ledger: Ledger
    sequencer: Sequencer


def show(settings: Settings) -> dict[str, Any]:
    """What the log says, and how this node's chain relates to it. Raises what `start` raises before it changes."""

    async def work(node: _StoppedNode) -> dict[str, Any]:
        own_epoch = node.ledger.epoch
        node_epoch = {"node_epoch": None if own_epoch is None else own_epoch.number}
        return _description(node, await epochs.survey(node.ledger, node.sequencer)) | node_epoch

    return _run_offline(settings, work)


def start(settings: Settings, *, if_needed: bool) -> dict[str, Any]:
    """See `epochs.resume`; what was done, and what the log held before, as a document.

    Raises the errors of `open_volume` (StoreError when the node runs) and ConfigurationError; Unavailable when no
    majority of etcd answers, OutcomeUnknown, EpochMismatch, ProposerRuns.
    """

    async def work(node: _StoppedNode) -> dict[str, Any]:
        outcome = await _resume(node, if_needed=if_needed)
        epoch = outcome.epoch
        return {
            "action": outcome.action,
            "epoch": epoch.number,
            "base_height": epoch.base_height,
            "base_hash": epoch.base_hash.hex(),
            "left_behind": outcome.left_behind,
            **_description(node, outcome.survey),
        }

    return _run_offline(settings, work)


async def _resume(node: _StoppedNode, *, if_needed: bool) -> Outcome:
    # The lease of a proposer that was killed a moment ago runs out; that of one that runs does not.
    deadline = time.monotonic() + node.settings.lease_seconds + _LEASE_SLACK
    has_reclaimed = False
    while True:
        try:
            return await epochs.resume(node.ledger, node.sequencer, node.settings.node_id, if_needed=if_needed)
        except ProposerRuns:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
        except CoordinationFull:
            # What ends the alarm is a node's work, and no node runs.
            if has_reclaimed:
                raise
            has_reclaimed = True
            await node.sequencer.reclaim()


def _description(node: _StoppedNode, survey: Survey) -> dict[str, Any]:
    ledger, epoch, head = node.ledger, survey.state.epoch, survey.state.head
    return {
        "node_id": node.settings.node_id,
        "chain_id": ledger.genesis.chain_id,
        "height": ledger.height,
        "tip_hash": ledger.tip.hash.hex(),
        "relation": survey.relation,
        "detail": survey.detail,
        "log_epoch": None if epoch is None else epoch.number,
        "log_base_height": None if epoch is None else epoch.base_height,
        "log_head_height": None if head is None else head.height,
        "log_head_hash": None if head is None else head.hash.hex(),
        "log_blocks_above": survey.blocks_above,
    }


def _run_offline(settings: Settings, work: Callable[[_StoppedNode], Awaitable[T]]) -> T:
    async def run() -> T:
        async with _open(settings) as node:
            return await work(node)

    return asyncio.run(run())


@contextlib.asynccontextmanager
async def _open(settings: Settings) -> AsyncIterator[_StoppedNode]:
    """The database's lock is held meanwhile, so the node cannot be started underneath."""
    identity = identities.load(settings)
    # The policy of another schema is for serving: a look at the epoch must never move a database aside.
    store, ledger = open_volume(settings.data_dir, identity.genesis, must_be_mount=settings.data_must_be_mount)
    with contextlib.closing(store):
        kv = ordering.connect(settings, store)
        try:
            yield _StoppedNode(settings, ledger, Sequencer(kv, identity.genesis.chain_id, settings.node_id))
        finally:
            await kv.close()
