//! RocksDB with RocketMQ's schema and options: one put per entry and one per distinct queue in a
//! batch, a checkpoint, no write-ahead log. Two background jobs and no rate limit, for two cores.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BottommostLevelCompaction, Cache,
    ColumnFamilyDescriptor, CompactOptions, DB, DBCompactionStyle, DBCompressionType,
    DataBlockIndexType, Direction, IteratorMode, Options, ReadOptions, UniversalCompactOptions,
    WriteBatch, WriteOptions, compaction_filter::Decision,
};

use super::figures::{Figures, Quantiles};
use super::gauge::{Gauge, Spent, reset_peak, resident_bytes, resident_peak_bytes};
use super::ours::{COLD, files_bytes, nanoseconds};
use super::peer::{Keys, Recent, draw_batches, generator_spent};
use super::plan::{Plan, Progress, failed};
use super::workload::Workload;
use crate::BenchError;
use crate::latency::Recorder;

const ENTRIES: &str = "default";
const OFFSETS: &str = "offset";
const CACHE_BYTES: usize = 1 << 30;
const COLD_CACHE_BYTES: usize = 8 << 20;

fn table_options(cache_bytes: usize) -> Result<BlockBasedOptions, BenchError> {
    let cache = Cache::new_lru_cache(cache_bytes).map_err(failed)?;
    let mut table = BlockBasedOptions::default();
    table.set_format_version(5);
    table.set_index_type(BlockBasedIndexType::BinarySearch);
    table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    table.set_data_block_hash_ratio(0.75);
    table.set_block_size(32 << 10);
    table.set_bloom_filter(16.0, false);
    table.set_cache_index_and_filter_blocks(false);
    table.set_pin_top_level_index_and_filter(true);
    table.set_whole_key_filtering(true);
    table.set_block_cache(&cache);
    Ok(table)
}

fn entries_options(cache_bytes: usize) -> Result<Options, BenchError> {
    let mut universal = UniversalCompactOptions::default();
    universal.set_size_ratio(100);
    universal.set_max_size_amplification_percent(25);
    universal.set_min_merge_width(2);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table_options(cache_bytes)?);
    options.set_max_write_buffer_number(4);
    options.set_write_buffer_size(128 << 20);
    options.set_min_write_buffer_number_to_merge(1);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_num_levels(7);
    options.set_compaction_style(DBCompactionStyle::Universal);
    options.set_universal_compaction_options(&universal);
    options.set_max_compaction_bytes(100 << 30);
    options.set_soft_pending_compaction_bytes_limit(100 << 30);
    options.set_hard_pending_compaction_bytes_limit(256 << 30);
    options.set_level_zero_file_num_compaction_trigger(2);
    options.set_level_zero_slowdown_writes_trigger(8);
    options.set_level_zero_stop_writes_trigger(10);
    options.set_target_file_size_base(256 << 20);
    options.set_target_file_size_multiplier(2);
    Ok(options)
}

fn offsets_options(cache_bytes: usize) -> Result<Options, BenchError> {
    let mut options = Options::default();
    options.set_block_based_table_factory(&table_options(cache_bytes.min(128 << 20))?);
    options.set_max_write_buffer_number(4);
    options.set_write_buffer_size(64 << 20);
    options.set_min_write_buffer_number_to_merge(1);
    options.set_num_levels(7);
    options.set_compaction_style(DBCompactionStyle::Level);
    options.set_level_zero_file_num_compaction_trigger(2);
    options.set_level_zero_slowdown_writes_trigger(8);
    options.set_level_zero_stop_writes_trigger(10);
    options.set_target_file_size_base(64 << 20);
    options.set_max_bytes_for_level_base(256 << 20);
    options.set_max_bytes_for_level_multiplier(2.0);
    options.set_inplace_update_support(true);
    Ok(options)
}

fn open(path: &Path, cache_bytes: usize, clean_below: Option<u64>) -> Result<DB, BenchError> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_max_open_files(-1);
    options.set_allow_concurrent_memtable_write(false);
    options.set_atomic_flush(true);
    options.set_max_background_jobs(2);
    options.set_max_subcompactions(1);
    options.set_use_direct_reads(true);
    options.set_use_direct_io_for_flush_and_compaction(true);
    let mut entries = entries_options(cache_bytes)?;
    if let Some(below) = clean_below {
        entries.set_compaction_filter("expired", move |_, _, value: &[u8]| {
            let at = value
                .first_chunk()
                .map_or(u64::MAX, |at| u64::from_be_bytes(*at));
            if at < below {
                Decision::Remove
            } else {
                Decision::Keep
            }
        });
    }
    let families = [
        ColumnFamilyDescriptor::new(ENTRIES, entries),
        ColumnFamilyDescriptor::new(OFFSETS, offsets_options(cache_bytes)?),
    ];
    DB::open_cf_descriptors(&options, path, families).map_err(failed)
}

/// Everything that is measured of RocksDB.
pub(super) fn measure(plan: &Plan, path: &Path) -> Result<Figures, BenchError> {
    let mut workload = Workload::new(plan.queues, plan.is_zipf);
    let mut figures = Figures {
        entries: plan.entries,
        queues: workload.queues(),
        ..Figures::default()
    };
    let keys = Keys::new(plan);
    ingest(plan, path, &keys, &mut workload, &mut figures)?;
    figures.disk_bytes = files_bytes(path)?;
    restart(path, &keys, &workload, &mut figures)?;
    let (iterated, got) = cold_reads(path, &keys, &workload)?;
    let better = if iterated.1 > got.1 { iterated } else { got };
    (figures.cold, figures.cold_per_s, figures.cold_bytes) = better;
    figures.clean = Some(clean(path, workload.cursor() / 2)?);
    Ok(figures)
}

fn ingest(
    plan: &Plan,
    path: &Path,
    keys: &Keys,
    workload: &mut Workload,
    figures: &mut Figures,
) -> Result<(), BenchError> {
    let drawing = generator_spent(plan);
    let mut progress = Progress::new("rocksdb", plan);
    let mut recent = Recent::new(plan);
    let mut latencies = Recorder::new();
    let resident = resident_bytes();
    reset_peak();
    let gauge = Gauge::now();
    let db = open(path, CACHE_BYTES, None)?;
    let offsets = db
        .cf_handle(OFFSETS)
        .ok_or_else(|| failed("no column family"))?;
    let mut write = WriteOptions::default();
    write.disable_wal(true);
    draw_batches(plan, workload, &mut recent, |draws, made| {
        let from = Instant::now();
        let mut batch = WriteBatch::default();
        let mut ends: HashMap<u64, (u64, u64)> = HashMap::with_capacity(draws.len());
        for draw in draws {
            batch.put(keys.entry(draw.queue, draw.offset), draw.value());
            ends.insert(draw.queue, (draw.at, draw.offset));
        }
        for (queue, (at, offset)) in &ends {
            let value = [at.to_be_bytes(), offset.to_be_bytes()].concat();
            batch.put_cf(offsets, keys.queue(*queue), value);
        }
        let last = draws.last().map_or(0, |draw| draw.at);
        batch.put_cf(offsets, b"checkpoint", last.to_be_bytes());
        db.write_opt(batch, &write).map_err(failed)?;
        latencies.record(nanoseconds(from));
        progress.tell(made);
        Ok(())
    })?;
    figures.batch = Quantiles::of(latencies);
    figures.resident_bytes = resident_bytes().saturating_sub(resident);
    figures.resident_peak_bytes = resident_peak_bytes().saturating_sub(resident);
    let reading = Gauge::now();
    figures.tail = tail_reads(&db, keys, &recent)?;
    let reading = reading.spent();
    db.flush().map_err(failed)?;
    db.flush_cf(offsets).map_err(failed)?;
    wait_for_compactions(&db)?;
    drop(db);
    let spent = gauge.spent();
    figures.ingest = Spent {
        wall_s: spent.wall_s - drawing.wall_s - reading.wall_s,
        cpu_s: spent.cpu_s - drawing.cpu_s - reading.cpu_s,
        ..spent
    };
    Ok(())
}

/// Waits until nothing was running at ten looks in a row. RocksDB may call a compaction pending
/// for good that its own limits do not let it begin.
fn wait_for_compactions(db: &DB) -> Result<(), BenchError> {
    let running = |name: &str| db.property_int_value(name).map_err(failed);
    let mut idle_looks = 0;
    while idle_looks < 10 {
        let compactions = running("rocksdb.num-running-compactions")?.unwrap_or(0);
        let flushes = running("rocksdb.num-running-flushes")?.unwrap_or(0);
        idle_looks = if compactions + flushes == 0 {
            idle_looks + 1
        } else {
            0
        };
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    Ok(())
}

fn iterate(db: &DB, keys: &Keys, queue: u64, offset: u64) -> Result<usize, BenchError> {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(keys.entry(queue, offset + 32));
    let from = keys.entry(queue, offset);
    let mode = IteratorMode::From(&from, Direction::Forward);
    let mut count = 0;
    for found in db.iterator_opt(mode, options) {
        found.map_err(failed)?;
        count += 1;
    }
    Ok(count)
}

fn get_many(db: &DB, keys: &Keys, queue: u64, offset: u64) -> Result<usize, BenchError> {
    let wanted: Vec<_> = (offset..offset + 32)
        .map(|at| keys.entry(queue, at))
        .collect();
    let mut count = 0;
    for found in db.multi_get(&wanted) {
        if found.map_err(failed)?.is_none() {
            break;
        }
        count += 1;
    }
    Ok(count)
}

fn tail_reads(db: &DB, keys: &Keys, recent: &Recent) -> Result<Quantiles, BenchError> {
    let mut latencies = Recorder::new();
    for (queue, offset) in &recent.written {
        let from = Instant::now();
        let count = iterate(db, keys, *queue, *offset)?;
        latencies.record(nanoseconds(from));
        if count == 0 {
            return Err(failed("a tail read of rocksdb found nothing"));
        }
    }
    Ok(Quantiles::of(latencies))
}

fn restart(
    path: &Path,
    keys: &Keys,
    workload: &Workload,
    figures: &mut Figures,
) -> Result<(), BenchError> {
    let from = Instant::now();
    let db = open(path, CACHE_BYTES, None)?;
    // RocketMQ loads the table of offsets into memory.
    let offsets = db
        .cf_handle(OFFSETS)
        .ok_or_else(|| failed("no column family"))?;
    let mut loaded: HashMap<Box<[u8]>, Box<[u8]>> = HashMap::new();
    for found in db.iterator_cf(offsets, IteratorMode::Start) {
        let (key, value) = found.map_err(failed)?;
        loaded.insert(key, value);
    }
    let first = workload.reads().next().unwrap_or_default();
    iterate(&db, keys, first.0, first.1)?;
    figures.restart_s = from.elapsed().as_secs_f64();
    if (loaded.len() as u64) < figures.queues.min(figures.entries) / 2 {
        return Err(failed("rocksdb lost offsets of queues"));
    }
    Ok(())
}

type Cold = (Quantiles, f64, f64);

fn cold_reads(path: &Path, keys: &Keys, workload: &Workload) -> Result<(Cold, Cold), BenchError> {
    let measure = |read: fn(&DB, &Keys, u64, u64) -> Result<usize, BenchError>| {
        let db = open(path, COLD_CACHE_BYTES, None)?;
        let mut latencies = Recorder::new();
        let gauge = Gauge::now();
        let count = COLD / 2;
        for (queue, offset) in workload.reads().take(usize::try_from(count).unwrap_or(0)) {
            let from = Instant::now();
            let found = read(&db, keys, queue, offset)? as u64;
            latencies.record(nanoseconds(from));
            let expected = (workload.count(queue) - offset).min(32);
            if found != expected {
                return Err(failed(format!(
                    "rocksdb read {found} entries, not {expected}"
                )));
            }
        }
        let spent = gauge.spent();
        let bytes = spent.read as f64 / count as f64;
        Ok((Quantiles::of(latencies), count as f64 / spent.wall_s, bytes))
    };
    Ok((measure(iterate)?, measure(get_many)?))
}

fn clean(path: &Path, below: u64) -> Result<Spent, BenchError> {
    let db = open(path, CACHE_BYTES, Some(below))?;
    let gauge = Gauge::now();
    let mut options = CompactOptions::default();
    options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
    db.compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
    wait_for_compactions(&db)?;
    Ok(gauge.spent())
}
