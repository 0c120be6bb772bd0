"""What an operator's restore finds in the log, and which epoch comes of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from goud_node.agreement.embedded import EmbeddedKv
from goud_node.agreement.kv import Compare, Operation, Txn
from goud_node.agreement.sequencer import Sequencer, State
from goud_node.chain.block import Block, build
from goud_node.chain.certificate import Certificate
from goud_node.chain.ledger import Epoch, Ledger
from goud_node.errors import EpochMismatch, OutcomeUnknown
from goud_node.replica import epochs, steps
from goud_node.replica.core import Core
from goud_node.store.memory import MemoryStore

from .actors import ENTRIES
from .test_steps import GENESIS, KEYS, Told, chain, core_on

FIRST = Epoch(1, 0, GENESIS.block().hash)
PAIRS = chain(8)
HEAD = len(PAIRS)


def restored(height: int, epoch: Epoch | None = FIRST, pairs: Sequence[tuple[Block, Certificate]] = PAIRS) -> Ledger:
    """A volume from a backup."""
    ledger = Ledger(MemoryStore(), GENESIS)
    ledger.append([block for block, _ in pairs[:height]], [certificate for _, certificate in pairs[:height]])
    if epoch is not None:
        ledger.set_epoch(epoch)
    return ledger


def log_of(kv: EmbeddedKv, name: str = "n1") -> Sequencer:
    return Sequencer(kv, GENESIS.chain_id, name)


async def old_log(*, trimmed: int = 0, height: int = HEAD, epoch: Epoch = FIRST) -> EmbeddedKv:
    """A log that lived through a restore: the epoch's blocks up to `height`, less the trimmed ones; nobody leads."""
    kv = EmbeddedKv(MemoryStore())
    log = log_of(kv, "n2")
    await log.begin_epoch(epoch, State(None, None, None))
    term = await log.campaign(epoch, 60)
    assert term is not None
    for block, _ in PAIRS[epoch.base_height : height]:
        await log.commit(term, block)
    await log.countersign(epoch, {}, height)
    await log.trim(epoch, trimmed)
    await log.resign(term)
    return kv


async def resume(ledger: Ledger, kv: EmbeddedKv, *, if_needed: bool = True) -> epochs.Outcome:
    return await epochs.resume(ledger, log_of(kv), "n1", if_needed=if_needed)


def started(ledger: Ledger, kv: EmbeddedKv, name: str = "n1") -> Core:
    """A node on that volume, with nobody else there yet."""
    core = core_on(kv, Told(), name)
    core.ledger = ledger
    return core


async def test_a_lost_log_begins_again_at_the_restored_tip() -> None:
    kv, mine, other = EmbeddedKv(MemoryStore()), restored(5, Epoch(3, 2, PAIRS[1][0].hash)), restored(5)
    outcome = await resume(mine, kv)
    assert (outcome.action, outcome.survey.relation, outcome.left_behind) == ("started", "empty", 0)
    assert outcome.epoch == Epoch(4, 5, PAIRS[4][0].hash)
    wiped = Ledger(MemoryStore(), GENESIS)
    for name, ledger in (("n1", mine), ("n2", other), ("n3", wiped)):
        core = started(ledger, kv, name)
        await steps.join(core)
        assert core.epoch == outcome.epoch, "an empty volume that starts first begins no other chain"
    assert (await resume(other, kv)).action == "continued", "a second node finds it settled"


@pytest.mark.parametrize("trimmed", [0, 4, 5])
async def test_a_log_that_continues_the_chain_is_kept(trimmed: int) -> None:
    kv = await old_log(trimmed=trimmed)
    outcome = await resume(restored(5), kv)
    assert (outcome.action, outcome.survey.relation, outcome.left_behind) == ("continued", "continues", 0)
    assert (outcome.epoch, outcome.survey.blocks_above) == (FIRST, 3)
    core = started(restored(5), kv)
    await steps.join(core)
    while core.ledger.height < HEAD:
        assert await steps.follow(core)
    assert core.ledger.tip.hash == PAIRS[-1][0].hash


async def test_a_log_that_ends_at_the_tip_is_kept() -> None:
    kv = await old_log(trimmed=HEAD)
    assert (await resume(restored(HEAD), kv)).action == "continued"


async def test_what_nodes_held_before_the_restore_does_not_let_the_log_be_trimmed() -> None:
    kv = await old_log()
    assert await log_of(kv).progress() == {"n2": HEAD}
    await resume(restored(5), kv)
    assert await log_of(kv).progress() == {}


async def test_a_block_that_only_a_backup_holds_without_its_certificate_is_in_the_log_again() -> None:
    kv, mine = await old_log(trimmed=5), restored(3)
    mine.append([block for block, _ in PAIRS[3:5]])
    assert (await resume(mine, kv)).action == "continued"
    tail = await log_of(kv).tail(4, 10)
    assert tail.blocks == [block.encode() for block, _ in PAIRS[3:]]


async def test_a_backup_of_an_earlier_epoch_joins_where_the_log_begins_just_above_it() -> None:
    """Every node has the same tip, the log no longer has that block, and no peer serves before it has joined."""
    second = Epoch(2, 3, PAIRS[2][0].hash)
    kv = await old_log(epoch=second, trimmed=5)
    assert (await resume(restored(5), kv)).action == "continued"
    core = started(restored(5), kv)
    await steps.join(core)
    assert core.epoch == second
    assert await steps.follow(core) == 3


async def test_a_gap_that_nobody_can_fill_begins_a_new_epoch() -> None:
    kv = await old_log(trimmed=6)
    outcome = await resume(restored(5), kv)
    assert (outcome.action, outcome.survey.relation, outcome.left_behind) == ("started", "gap", 2)
    assert outcome.epoch == Epoch(2, 5, PAIRS[4][0].hash)
    core = started(restored(5), kv)
    await steps.join(core)
    assert await steps.follow(core) == 0
    assert (await log_of(kv).tail(1, 10)).blocks == [], "nothing of the old order is left"


async def test_a_gap_further_up_is_a_gap() -> None:
    second = Epoch(2, 6, PAIRS[5][0].hash)
    kv = await old_log(epoch=second, trimmed=7)
    await log_of(kv).republish(second, PAIRS[5][0])
    assert (await resume(restored(5), kv)).survey.relation == "gap"


async def test_an_earlier_tip_on_purpose_leaves_the_tail_behind() -> None:
    kv, left = await old_log(), restored(7)
    outcome = await resume(restored(5), kv, if_needed=False)
    assert (outcome.action, outcome.survey.relation, outcome.left_behind) == ("started", "continues", 3)
    with pytest.raises(EpochMismatch, match="holds 7 blocks"):
        await steps.join(started(left, kv))
    core = started(restored(5), kv, "n2")
    await steps.join(core)
    assert core.epoch == outcome.epoch


def forked(height: int, length: int) -> list[tuple[Block, Certificate]]:
    """The chain up to `height`, then other blocks."""
    pairs, tip = list(PAIRS[:height]), PAIRS[height - 1][0].header
    for number in range(length):
        block = build(tip, [ENTRIES[-1 - number].raw], proposer="n3", key=KEYS["n3"], timestamp_ms=tip.timestamp_ms + 1)
        pairs.append((block, Certificate(block.height, block.hash, {})))
        tip = block.header
    return pairs


def uncertified(height: int, length: int, epoch: Epoch = FIRST) -> Ledger:
    ledger = restored(height, epoch)
    ledger.append([block for block, _ in forked(height, length)[height:]])
    return ledger


@pytest.mark.parametrize(
    ("length", "trimmed", "epoch"),
    [
        pytest.param(2, 0, FIRST, id="below the head, the block is there"),
        pytest.param(2, 5, FIRST, id="below the head, only the next block tells"),
        pytest.param(5, HEAD, FIRST, id="at the head"),
        pytest.param(7, HEAD, FIRST, id="above the head"),
        pytest.param(2, HEAD, Epoch(2, 4, PAIRS[3][0].hash), id="the epoch began on another block"),
    ],
)
async def test_a_contradiction_is_for_the_operator_to_decide(length: int, trimmed: int, epoch: Epoch) -> None:
    kv, ledger = await old_log(trimmed=trimmed, epoch=epoch), uncertified(3, length)
    before = await log_of(kv).state()
    with pytest.raises(EpochMismatch, match="without --if-needed"):
        await resume(ledger, kv)
    assert await log_of(kv).state() == before
    outcome = await resume(ledger, kv, if_needed=False)
    assert (outcome.action, outcome.survey.relation) == ("started", "conflict")
    assert outcome.epoch == Epoch(epoch.number + 1, ledger.height, ledger.tip.hash)


async def test_a_block_in_the_log_that_breaks_the_rules_is_a_contradiction() -> None:
    kv = EmbeddedKv(MemoryStore())
    log = log_of(kv, "n2")
    await log.begin_epoch(FIRST, State(None, None, None))
    term = await log.campaign(FIRST, 60)
    assert term is not None
    forged = build(GENESIS.block().header, [ENTRIES[0].raw], proposer="n2", key=KEYS["n3"], timestamp_ms=1)
    await log.commit(term, forged)
    found = await epochs.survey(restored(0), log)
    assert (found.relation, "signature" in found.detail) == ("conflict", True)


async def test_an_older_log_with_blocks_of_its_own_is_a_contradiction() -> None:
    kv = await old_log()
    found = await epochs.survey(restored(5, Epoch(3, 4, PAIRS[3][0].hash)), log_of(kv))
    assert (found.relation, "replaced" in found.detail) == ("conflict", True)


@pytest.mark.parametrize(
    ("height", "epoch"), [(7, FIRST), (6, Epoch(3, 4, PAIRS[3][0].hash)), (6, Epoch(1, 4, PAIRS[3][0].hash))]
)
async def test_a_log_with_nothing_new_that_cannot_be_joined_is_replaced(height: int, epoch: Epoch) -> None:
    kv = await old_log(height=6)
    with pytest.raises(EpochMismatch):
        await steps.join(started(restored(height, epoch), kv))
    outcome = await resume(restored(height, epoch), kv)
    assert (outcome.action, outcome.survey.relation, outcome.left_behind) == ("started", "ahead", 0)
    assert outcome.epoch.number == epoch.number + 1
    await steps.join(started(restored(height, epoch), kv))


async def test_a_running_proposer_is_not_overruled() -> None:
    kv = await old_log()
    assert await log_of(kv, "n2").campaign(FIRST, 60) is not None
    with pytest.raises(epochs.ProposerRuns, match="n2"):
        await resume(restored(5), kv, if_needed=False)
    assert (await log_of(kv).state()).epoch == FIRST
    assert (await resume(restored(5), kv)).action == "continued"


async def test_the_same_node_led_before() -> None:
    kv = await old_log()
    assert await log_of(kv, "n1").campaign(FIRST, 60) is not None
    assert (await resume(restored(5), kv, if_needed=False)).action == "started"


class LosesAnswers(EmbeddedKv):
    """The next change is applied, and its answer lost."""

    losing = True

    async def txn(self, compares: Sequence[Compare], then: Sequence[Operation]) -> Txn:
        outcome = await super().txn(compares, then)
        if self.losing:
            self.losing = False
            raise OutcomeUnknown("no answer")
        return outcome


async def test_a_lost_answer_does_not_begin_two_epochs() -> None:
    kv = LosesAnswers(MemoryStore())
    outcome = await resume(restored(5), kv)
    assert (outcome.epoch, (await log_of(kv).state()).epoch) == (Epoch(2, 5, PAIRS[4][0].hash),) * 2


async def test_a_node_that_works_in_the_new_epoch_at_once_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every node should be stopped: what is restored to next would leave behind what this one orders."""
    kv, begin = await old_log(), Sequencer.begin_epoch

    async def begin_beside_a_node(log: Sequencer, new: Epoch, previous: State) -> None:
        await begin(log, new, previous)
        other = log_of(kv, "n2")
        term = await other.campaign(new, 60)
        assert term is not None
        await other.commit(term, PAIRS[5][0])

    monkeypatch.setattr(Sequencer, "begin_epoch", begin_beside_a_node)
    with pytest.raises(OutcomeUnknown, match="the log has moved on"):
        await resume(restored(5), kv, if_needed=False)


@pytest.mark.parametrize("running", [False, True])
async def test_a_log_lost_again_before_anybody_joined_does_not_repeat_a_number(running: bool) -> None:
    ledger, numbers = restored(5), []
    for _ in range(2):
        kv = EmbeddedKv(MemoryStore())
        if running:
            numbers.append((await steps.start_epoch(started(ledger, kv))).number)
        else:
            numbers.append((await resume(ledger, kv)).epoch.number)
    assert numbers == [2, 3]


async def test_an_epoch_of_the_same_name_is_not_taken_for_the_same() -> None:
    """The log was lost in epoch 2, a backup of epoch 1 ends where that began: the new one is called like the lost one.

    A node that was left behind with the lost epoch's blocks must stay out, also once the others have passed its tip.
    """
    lost = Epoch(2, 5, PAIRS[4][0].hash)
    left = uncertified(5, 2, lost)
    kv = EmbeddedKv(MemoryStore())
    assert (await resume(restored(5), kv)).epoch == lost
    log = log_of(kv, "n2")
    term = await log.campaign(lost, 60)
    assert term is not None
    for block, _ in PAIRS[5:]:
        await log.commit(term, block)
    for trimmed in (0, 7):
        await log.trim(lost, trimmed)
        with pytest.raises(EpochMismatch, match="block 7"):
            await steps.join(started(left, kv, "n3"))
