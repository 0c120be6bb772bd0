"""Sizes that shape a repository, and names that several layers share."""

from __future__ import annotations

import os
from typing import Final

MIB: Final = 1024 * 1024

PART_BYTES: Final = 8 * MIB - 64 * 1024
"""Most plain bytes of one object: what one worker holds in memory at a time, and what every store takes in one request
(Google's library makes a session of several beyond 8 MiB), sealed or not."""
PACK_BELOW: Final = MIB
"""Files smaller than this share an object."""
SEGMENT_BYTES: Final = 7 * MIB
"""Most plain bytes of one segment of shipped blocks."""


SECRETS_FOLDER: Final = "secrets"
"""Where a manifest lists secrets that went along, encrypted."""

WORKERS: Final = max(4, min(8, os.cpu_count() or 4))
"""Parallel readers and uploads unless told otherwise: more than cores, because they also wait for the store. Each holds
at most three times PART_BYTES."""
