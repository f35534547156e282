//! What a disk does to bytes behind everybody's back: bit rot, writes that went astray, writes
//! that never happened, files that are gone.

use storage_io::Disk;
use storage_io::sim::{Rng, SECTOR, SimDisk};
use storage_log::LogError;

use super::checks::{self, Wrong, broken};
use super::model::Sample;
use super::stack::{Stack, StackError};
use super::world::World;

const STATE: &str = "state.redb";
const MANIFEST: &str = "manifest";

fn names(disk: &SimDisk, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let names = disk.list().unwrap_or_default();
    names.into_iter().filter(|name| wanted(name)).collect()
}

fn is_run(name: &str) -> bool {
    name.starts_with("cq-")
}

fn is_segment(name: &str) -> bool {
    name.starts_with("segment-")
}

fn pick(rng: &mut Rng, names: &[String]) -> Option<String> {
    (!names.is_empty()).then(|| names.get(rng.index(names.len())).cloned())?
}

fn flip(disk: &SimDisk, rng: &mut Rng, name: &str) {
    let len = disk.contents(name).map_or(0, |bytes| bytes.len());
    if len > 0 {
        let bit = u8::try_from(rng.below(8)).unwrap_or(0);
        disk.flip_bit(name, rng.index(len), bit);
    }
}

/// Between two lives: files of the index and of the state store rot, or are lost. All of it has to
/// come back from the log.
pub(super) fn of_derived_files(world: &mut World) {
    if !world.rng.chance(1, 2) {
        return;
    }
    let (disk, rng) = (world.disk.clone(), &mut world.rng);
    let runs = names(&disk, is_run);
    let what = rng.below(if world.retires { 2 } else { 7 });
    match what {
        0 => remove(&disk, STATE),
        1 => flip(&disk, rng, STATE),
        2 => remove(&disk, MANIFEST),
        3 => flip(&disk, rng, MANIFEST),
        4 => pick(rng, &runs).iter().for_each(|name| remove(&disk, name)),
        5 => pick(rng, &runs)
            .iter()
            .for_each(|name| flip(&disk, rng, name)),
        _ => runs.iter().for_each(|name| remove(&disk, name)),
    }
    world.damaged();
    world.note(format_args!("damage {what} of derived files"));
}

fn remove(disk: &SimDisk, name: &str) {
    // A file that is not there is as good as removed.
    drop(disk.remove(name));
}

/// A page of a run rots while it is in use: it is read right, or the index says so.
pub(super) fn of_a_run_in_use(world: &mut World) {
    let runs = names(&world.disk, is_run);
    if world.retires || !world.rng.chance(1, 4) {
        return;
    }
    if let Some(name) = pick(&mut world.rng, &runs) {
        flip(&world.disk, &mut world.rng, &name);
        world.has_rot = true;
        world.damaged();
        world.note(format_args!("a bit of {name} rots"));
    }
}

/// The last life: durable bytes of the log are damaged, which has to be noticed by whoever reads
/// them, and by a recovery that walks over them.
pub(super) fn in_the_log(world: &mut World) -> Result<(), Wrong> {
    let before: Vec<_> = names(&world.disk, is_segment)
        .into_iter()
        .filter_map(|name| Some((world.disk.contents(&name)?, name)))
        .collect();
    let steps = 20 + world.rng.below(60);
    world.live(steps)?;
    world.set_faults(storage_io::sim::Faults::default());
    world.stack = None;
    world.crash();
    world.recover()?;
    world.settle()?;
    world.model.durable = world.stack()?.log.synced().0;
    let originals: Vec<_> = names(&world.disk, is_segment)
        .into_iter()
        .filter_map(|name| Some((world.disk.contents(&name)?, name)))
        .collect();
    spoil(world, &before);
    let spoilt = spoilt(world, &originals);
    world.note(format_args!(
        "{} records are spoilt: {spoilt:?}",
        spoilt.len()
    ));
    if spoilt.is_empty() {
        return Ok(());
    }
    world.damaged();
    read_all(world, &spoilt, false)?;
    world.stack = None;
    world.crash();
    // What was replayed and applied is not walked again at a start.
    match Stack::open(&world.disk, &world.stack_options, 0) {
        Ok(stack) => {
            world.stack = Some(stack);
            read_all(world, &spoilt, true)?;
            world.stack = None;
        }
        Err(error) => refused(&error)?,
    }
    let derived = names(&world.disk, |name| {
        is_run(name) || name == STATE || name == MANIFEST
    });
    derived.iter().for_each(|name| remove(&world.disk, name));
    match Stack::open(&world.disk, &world.stack_options, 0) {
        Ok(_) => broken(format!(
            "damage not noticed: {} durable records differ, and the log is recovered",
            spoilt.len()
        )),
        Err(error) => refused(&error),
    }
}

fn refused(error: &StackError) -> Result<(), Wrong> {
    let is_named = matches!(
        error,
        StackError::Log(
            LogError::Damaged { .. } | LogError::MissingSegment { .. } | LogError::EndsEarly { .. },
        )
    );
    if is_named {
        return Ok(());
    }
    broken(format!("wrong words for damage: {error}"))
}

/// Changes some sectors of a durable record.
fn spoil(world: &mut World, before: &[(Vec<u8>, String)]) {
    let (disk, rng, model) = (&world.disk, &mut world.rng, &world.model);
    let live: Vec<_> = model
        .records
        .iter()
        .filter(|record| record.at >= model.start)
        .collect();
    if live.is_empty() {
        return;
    }
    let Some(target) = live.get(rng.index(live.len())) else {
        return;
    };
    let at = target.at + rng.below(target.end - target.at);
    let Some((name, position)) = place(disk, at) else {
        return;
    };
    let sector = position - position % SECTOR;
    let bit = u8::try_from(rng.below(8)).unwrap_or(0);
    let segments = names(disk, is_segment);
    match rng.below(3) {
        0 => drop(disk.flip_bit(&name, position, bit)),
        1 => {
            // Another sector of the log was written here.
            let from = pick(rng, &segments).and_then(|name| disk.contents(&name));
            let sectors = from.as_ref().map_or(0, |bytes| bytes.len() / SECTOR);
            let first = rng.index(sectors.max(1)) * SECTOR;
            let stray = from.and_then(|bytes| bytes.get(first..first + SECTOR).map(<[u8]>::to_vec));
            replace(disk, &name, sector, &stray.unwrap_or_default());
        }
        _ => {
            // The last write never came here.
            let old = before.iter().find(|(_, old)| *old == name);
            let old = old.and_then(|(bytes, _)| bytes.get(sector..sector + SECTOR));
            let zeroes = [0; SECTOR];
            replace(disk, &name, sector, old.unwrap_or(&zeroes));
        }
    }
}

fn replace(disk: &SimDisk, name: &str, at: usize, with: &[u8]) {
    disk.rot(name, &mut |bytes| {
        if let Some(place) = bytes.get_mut(at..at + with.len()) {
            place.copy_from_slice(with);
        }
    });
}

/// The segment that holds a log offset, and the position in it.
fn place(disk: &SimDisk, at: u64) -> Option<(String, usize)> {
    names(disk, is_segment).into_iter().rev().find_map(|name| {
        let digits = name.strip_prefix("segment-")?;
        let base = u64::from_str_radix(digits, 16).ok()?;
        let position = usize::try_from(at.checked_sub(base)?).ok()?;
        Some((name, position))
    })
}

/// The offsets of the records whose bytes are not what they were.
fn spoilt(world: &World, originals: &[(Vec<u8>, String)]) -> Vec<u64> {
    let mut found = Vec::new();
    for record in &world.model.records {
        let Some((name, from)) = place(&world.disk, record.at) else {
            continue;
        };
        let to = from + usize::try_from(record.end - record.at).unwrap_or(0);
        let was = originals.iter().find(|(_, original)| *original == name);
        let was = was.and_then(|(bytes, _)| bytes.get(from..to));
        let is = world.disk.contents(&name);
        if record.at >= world.model.start
            && is.as_ref().and_then(|bytes| bytes.get(from..to)) != was
        {
            found.push(record.at);
        }
    }
    found
}

/// Reads every record: right, or a named error. `is_cold`: what is spoilt must be an error.
fn read_all(world: &mut World, spoilt: &[u64], is_cold: bool) -> Result<(), Wrong> {
    let start = world.model.start;
    let Some(stack) = &mut world.stack else {
        return Ok(());
    };
    for wanted in world.model.records.iter().filter(|one| one.at >= start) {
        let is_spoilt = spoilt.contains(&wanted.at);
        match stack.read(wanted.at, 0) {
            Ok(_) if is_spoilt && is_cold => {
                return broken(format!("damage not noticed: the record at {}", wanted.at));
            }
            Ok(found) => checks::same(wanted, &Sample::of(&found))?,
            Err(StackError::Log(LogError::Damaged { .. })) if is_spoilt => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
