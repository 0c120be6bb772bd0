"""RocksDB options: a small, bounded memory budget, zstd, and logs that do not grow.

Memory per node at most: 64 MB of memtables over all families, 48 MB of block cache, and index blocks of the open files.
"""

from __future__ import annotations

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Options

from goud_node.store.base import Family

MIB = 1024 * 1024
MEMTABLES_TOTAL = 64 * MIB
BLOCK_CACHE = 48 * MIB
WRITE_BUFFERS = {Family.BLOCKS: 32 * MIB, Family.SEQUENCER: 8 * MIB}
WRITE_BUFFER_DEFAULT = 4 * MIB
MAX_OPEN_FILES = 256
WAL_TOTAL = 96 * MIB


def database_options(*, create: bool) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(create)
    options.create_missing_column_families(create)
    options.set_error_if_exists(create)
    options.set_paranoid_checks(True)
    # A flipped byte in the middle of the log must stop us; only a torn last record may be dropped (never acknowledged).
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_db_write_buffer_size(MEMTABLES_TOTAL)
    options.set_max_total_wal_size(WAL_TOTAL)
    options.set_max_open_files(MAX_OPEN_FILES)
    options.set_max_background_jobs(2)
    options.set_bytes_per_sync(MIB)
    options.set_max_log_file_size(4 * MIB)
    options.set_keep_log_file_num(4)
    options.set_max_manifest_file_size(16 * MIB)
    options.set_stats_dump_period_sec(0)
    return options


def family_options() -> dict[str, Options]:
    """Options by family name; one block cache is shared by all."""
    cache = Cache(BLOCK_CACHE)
    return {family.value: _family(family, cache) for family in Family}


def _family(family: Family, cache: Cache) -> Options:
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
    options.set_write_buffer_size(WRITE_BUFFERS.get(family, WRITE_BUFFER_DEFAULT))
    options.set_max_write_buffer_number(2)
    options.set_target_file_size_base(64 * MIB)
    options.set_level_compaction_dynamic_level_bytes(True)
    return options
