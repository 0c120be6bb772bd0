"""Schedules that are not drawn evenly: clients at work, faults that take away answers and leaders, volumes lost."""

from __future__ import annotations

import random

_WEIGHTS = {
    range(172): 120,  # advance
    range(172, 181): 3,  # submit
    range(181, 185): 18,  # ask once
    range(185, 186): 3,  # flood
    range(186, 187): 1,  # halt
    range(187, 188): 1,  # stop
    range(188, 195): 7,  # tick
    range(198, 222): 12,  # disturb
    range(222, 228): 6,  # a ghost arrives
    range(228, 235): 1,  # crash, pause, cut off
    range(235, 247): 8,  # recover
    range(247, 250): 5,  # hand over
}
"""How often each kind of action comes; the ranges are those of `Model.act`."""
LENGTH = 600


def busy(seed: int) -> bytes:
    """A schedule of busy clients on a chain that has begun."""
    chance = random.Random(seed)  # noqa: S311  # repeatable on purpose
    kinds = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=LENGTH)
    pairs = [bytes([chance.choice(kind), chance.randrange(256)]) for kind in kinds]
    return bytes([64 + chance.randrange(192)]) + b"".join(pairs)


_PAUSE, _CUT, _RECOVER, _WIPE = 231, 233, 235, 250
_WORK = {range(172): 20, range(172, 181): 2, range(188, 195): 1}  # advance, submit, tick
_TRIMMED = [shape for shape in range(64, 256) if shape % 4 == 0 and shape % 5 < 3 and shape % 3]
"""Three validators and nobody else, on a chain that has begun, whose log keeps nothing that may be trimmed."""
_ROUNDS = 6


def bereft(seed: int) -> bytes:
    """A schedule in which one of three validators, again and again, goes on without the others and loses its volume."""
    chance = random.Random(seed)  # noqa: S311  # repeatable on purpose
    pairs: list[tuple[int, int]] = []

    def work(least: int) -> None:
        kinds = chance.choices(list(_WORK), list(_WORK.values()), k=chance.randrange(least, 3 * least))
        pairs.extend((chance.choice(kind), chance.randrange(256)) for kind in kinds)

    for _ in range(_ROUNDS):
        alone, *others = chance.sample(range(3), 3)
        work(30)
        pairs.extend((chance.choice((_PAUSE, _CUT)), node) for node in others)
        work(15)
        pairs.append((_WIPE, alone))
        work(10)
        pairs.extend((_RECOVER, node) for node in (alone, *others))
    return bytes([chance.choice(_TRIMMED), *(byte for pair in pairs for byte in pair)])
