"""Who takes part in the model, and what clients submit: the same in every world."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from goud_node.chain.keys import SigningKey
from goud_node.chain.transactions import AccountCreate


@dataclass(frozen=True)
class Entry:
    """A submitted transaction."""

    raw: bytes
    transaction: AccountCreate


class CachedKey(SigningKey):
    """Ed25519 signatures are deterministic, so thousands of schedules can share them."""

    cache: dict[tuple[bytes, bytes, bytes], bytes] = {}  # noqa: RUF012  # shared on purpose

    def sign(self, domain: bytes, message: bytes) -> bytes:
        known = self.cache.get((self.public, domain, message))
        if known is None:
            if len(self.cache) > 100_000:
                self.cache.clear()
            known = self.cache[self.public, domain, message] = super().sign(domain, message)
        return known


def key_of(name: str) -> CachedKey:
    return CachedKey.from_seed(hashlib.sha256(name.encode()).digest())  # type: ignore[return-value]  # cls is CachedKey


KEYS = {name: key_of(name) for name in ("n1", "n2", "n3", "n4", "n5", "observer")}


def entry(number: int, tries: int = 0) -> Entry:
    """A request, in the bytes of one of its tries: a client makes new ones whenever it asks again."""
    digest = hashlib.sha256(b"account %d" % number).digest()
    transaction = AccountCreate(f"a{number}", digest, digest, number + tries)
    return Entry(transaction.encode(), transaction)


ENTRIES = [entry(number) for number in range(12)]

WRITES = [entry(number, tries) for number in range(100, 132) for tries in (0, 1)]
"""Each is asked for once, and repeated in other bytes."""
