"""RocksDB options: a small, bounded memory budget, zstd, and logs that do not grow.

Memory per node at most: 64 MB of memtables over all families, 48 MB of block cache, and index blocks of the open files.
On a small disk everything that is written in one piece shrinks with it: see `room_of`.
"""

from __future__ import annotations

import os
from pathlib import Path

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Options

from goud_node.store.base import Family

MIB = 1024 * 1024
MEMTABLES_TOTAL = 64 * MIB
BLOCK_CACHE = 48 * MIB
WRITE_BUFFERS = {Family.BLOCKS: 32 * MIB, Family.SEQUENCER: 8 * MIB}
WRITE_BUFFER_DEFAULT = 4 * MIB
MAX_OPEN_FILES = 256
WAL_TOTAL = 96 * MIB
TABLE_FILE = 64 * MIB
LOG_FILE = 4 * MIB
MANIFEST_FILE = 16 * MIB
SHARE = 0.05
"""Of a small disk: what the database's memory may take when it is written."""


def room_of(capacity: int) -> int:
    """Bytes that must be free on a file system of `capacity` bytes before the database goes on after it was full.

    RocksDB resumes only when its largest write buffer would fit, and begins by writing every buffer to files.
    """
    return int(MEMTABLES_TOTAL * _scale(capacity))


def capacity_of(path: Path) -> int:
    """Size of the file system of `path` in bytes. Raises OSError."""
    disk = os.statvfs(path)
    return disk.f_blocks * disk.f_frsize


def database_options(*, create: bool, capacity: int) -> Options:
    scale = _scale(capacity)
    options = Options(raw_mode=True)
    options.create_if_missing(create)
    options.create_missing_column_families(create)
    options.set_error_if_exists(create)
    options.set_paranoid_checks(True)
    # A flipped byte in the middle of the log must stop us; only a torn last record may be dropped (never acknowledged).
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    # Of the family that every database has and nobody here uses. Its default would be the largest of all.
    options.set_write_buffer_size(int(WRITE_BUFFER_DEFAULT * scale))
    options.set_db_write_buffer_size(int(MEMTABLES_TOTAL * scale))
    options.set_max_total_wal_size(int(WAL_TOTAL * scale))
    options.set_max_open_files(MAX_OPEN_FILES)
    options.set_max_background_jobs(2)
    options.set_bytes_per_sync(MIB)
    options.set_max_log_file_size(int(LOG_FILE * scale))
    options.set_keep_log_file_num(4)
    options.set_max_manifest_file_size(int(MANIFEST_FILE * scale))
    options.set_stats_dump_period_sec(0)
    return options


def family_options(*, capacity: int) -> dict[str, Options]:
    """Options by family name; one block cache is shared by all."""
    cache = Cache(BLOCK_CACHE)
    return {family.value: _family(family, cache, _scale(capacity)) for family in Family}


def _scale(capacity: int) -> float:
    return min(1.0, capacity * SHARE / MEMTABLES_TOTAL)


def _family(family: Family, cache: Cache, scale: float) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_format_version(5)
    table.set_block_size(16 * 1024)
    if family is not Family.BLOCKS:
        table.set_bloom_filter(10, False)
    options = Options(raw_mode=True)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.zstd())
    options.set_write_buffer_size(int(WRITE_BUFFERS.get(family, WRITE_BUFFER_DEFAULT) * scale))
    options.set_max_write_buffer_number(2)
    options.set_target_file_size_base(int(TABLE_FILE * scale))
    options.set_level_compaction_dynamic_level_bytes(True)
    return options
