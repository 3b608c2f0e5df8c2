//! From what was gathered, sorted by the names that it wants, to names of which each is there once. The rules are those of
//! [`crate::tree`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;

use crate::cases::Cases;
use crate::entry::Entry;
use crate::erofs::writer::{File, Step, Walk, WriteError};
use crate::gathering::{LeftOut, Source};
use crate::scratch::{Log, Scratch, torn};
use crate::sorter::Sorted;
use crate::tree::{Awkward, cut, is_below, other_names, shared_parts};

/// All entries of a tree, in the order of a walk.
pub(crate) struct Names {
    pub(crate) entries: Log,
    pub(crate) awkward: Awkward,
}

/// A file whose path is a folder's or another file's.
struct Colliding {
    /// Number of the entry.
    number: u64,
    record: Vec<u8>,
}

pub(crate) fn names(sorted: Sorted, sources: &[Source], mut left_out: LeftOut, scratch: &Scratch) -> io::Result<Names> {
    let (entries, colliding) = without_twins(sorted, sources, &mut left_out, scratch)?;
    let entries = if colliding.is_empty() {
        entries
    } else {
        renamed(&entries, &colliding, sources, scratch)?
    };
    Ok(Names {
        awkward: awkward(&entries, left_out, sources)?,
        entries,
    })
}

pub(crate) fn mount_of(sources: &[Source], source: u16) -> io::Result<&str> {
    let source = sources.get(usize::from(source)).ok_or_else(torn)?;
    Ok(&source.mount)
}

/// All entries but the older ones of keys that one listing names twice, for example when one changed in between; twins stand
/// side by side, the newest first. And the files that cannot keep their names.
fn without_twins(
    sorted: Sorted,
    sources: &[Source],
    left_out: &mut LeftOut,
    scratch: &Scratch,
) -> io::Result<(Log, Vec<Colliding>)> {
    let (mut entries, mut colliding) = (Log::new(scratch), Vec::new());
    let mut number = 0;
    // Of the entries with one path: the first, the newest, and those after the first that collide with it.
    let (mut first, mut last, mut others): (Vec<u8>, Vec<u8>, Vec<Colliding>) = (Vec::new(), Vec::new(), Vec::new());
    let mut first_number = 0;
    let mut merged = sorted.merged()?;
    while let Some(record) = merged.next()? {
        let entry = Entry::read(record)?;
        let is_first = last.is_empty() || Entry::read(&last)?.path != entry.path;
        if is_first {
            if !first.is_empty() {
                let before = Entry::read(&first)?;
                if !before.is_folder && is_below(entry.path, before.path) {
                    colliding.push(Colliding {
                        number: first_number,
                        record: first.clone(),
                    });
                }
                colliding.append(&mut others);
            }
            first_number = number;
            first.clear();
            first.extend_from_slice(record);
        } else {
            if let Some((source, key)) = twin(&Entry::read(&last)?, &entry, sources)? {
                left_out.note(source, &key, "left out: listed twice, the newer one counts");
                continue;
            }
            if !entry.is_folder {
                others.push(Colliding {
                    number,
                    record: record.to_vec(),
                });
            }
        }
        last.clear();
        last.extend_from_slice(record);
        entries.append(record)?;
        number += 1;
    }
    colliding.append(&mut others);
    Ok((entries, colliding))
}

/// Source and key when both are the same object.
fn twin(kept: &Entry<'_>, later: &Entry<'_>, sources: &[Source]) -> io::Result<Option<(u16, String)>> {
    let (Some(first), Some(second)) = (kept.object, later.object) else {
        return Ok(None);
    };
    if kept.is_folder || later.is_folder || first.source != second.source {
        return Ok(None);
    }
    let mount = mount_of(sources, first.source)?;
    let key = first.key_at(kept, mount);
    Ok((key == second.key_at(later, mount)).then(|| (first.source, key.into_owned())))
}

/// The entries with a name of its own for each file that collides.
fn renamed(entries: &Log, colliding: &[Colliding], sources: &[Source], scratch: &Scratch) -> io::Result<Log> {
    let paths = free_names(entries, colliding, sources)?;
    let mut moved: Vec<(&str, &Colliding)> = paths.iter().map(String::as_str).zip(colliding).collect();
    moved.sort_unstable_by_key(|(path, _)| *path);
    let mut moved = moved.into_iter().peekable();
    let mut gone = colliding.iter().map(|colliding| colliding.number).peekable();
    let (mut out, mut place) = (Log::new(scratch), Vec::new());
    let mut append_moved = |out: &mut Log, path: &str, colliding: &Colliding| {
        let entry = Entry::read(&colliding.record)?;
        let object = entry.object.ok_or_else(torn)?;
        let key = object.key_at(&entry, mount_of(sources, object.source)?);
        let mut object = object;
        object.key = Some(&key);
        let moved = Entry {
            path,
            is_folder: false,
            changed: true,
            object: Some(object),
        };
        moved.write(&mut place);
        out.append(&place)
    };
    let mut records = entries.records();
    let mut number = 0;
    while let Some(record) = records.next()? {
        let path = Entry::read(record)?.path;
        while let Some((path, colliding)) = moved.next_if(|(moved, _)| *moved < path) {
            append_moved(&mut out, path, colliding)?;
        }
        if gone.next_if_eq(&number).is_none() {
            out.append(record)?;
        }
        number += 1;
    }
    for (path, colliding) in moved {
        append_moved(&mut out, path, colliding)?;
    }
    Ok(out)
}

/// A free name for each, in their order: the first of its names that nothing else has.
///
/// Which names are there is known after a walk through all entries only. So all that somebody might want are asked for at once, and
/// the choice is made again from the beginning until nothing is unknown; each time twice as many names ahead.
fn free_names(entries: &Log, colliding: &[Colliding], sources: &[Source]) -> io::Result<Vec<String>> {
    let mut is_there: HashMap<String, bool> = HashMap::new();
    let mut names_ahead = 1;
    loop {
        let (mut unknown, mut taken, mut chosen) = (BTreeSet::new(), HashSet::new(), Vec::new());
        for Colliding { number: _, record } in colliding {
            let entry = Entry::read(record)?;
            let object = entry.object.ok_or_else(torn)?;
            let source = sources.get(usize::from(object.source)).ok_or_else(torn)?;
            let key = object.key_at(&entry, &source.mount);
            let mut names = other_names(entry.path, &source.identity, &key);
            let free = names.find(|name| is_there.get(name) != Some(&true) && !taken.contains(name));
            // There is no end of names.
            let Some(name) = free else { continue };
            if is_there.contains_key(&name) {
                taken.insert(name.clone());
                chosen.push(name);
            } else {
                unknown.insert(name);
                unknown.extend(names.take(names_ahead - 1).filter(|name| !is_there.contains_key(name)));
            }
        }
        if unknown.is_empty() {
            return Ok(chosen);
        }
        look_up(entries, unknown, &mut is_there)?;
        names_ahead *= 2;
    }
}

/// Finds out which of the paths are those of a file or a folder.
fn look_up(entries: &Log, paths: BTreeSet<String>, is_there: &mut HashMap<String, bool>) -> io::Result<()> {
    let mut paths = paths.into_iter().peekable();
    let mut records = entries.records();
    while let Some(record) = records.next()? {
        let here = Entry::read(record)?.path;
        while let Some(path) = paths.next_if(|path| path.as_str() <= here) {
            let found = path == here || is_below(here, &path);
            is_there.insert(path, found);
        }
        if paths.peek().is_none() {
            break;
        }
    }
    is_there.extend(paths.map(|path| (path, false)));
    Ok(())
}

fn awkward(entries: &Log, left_out: LeftOut, sources: &[Source]) -> io::Result<Awkward> {
    let mut awkward = Awkward::default();
    let LeftOut { count, first } = left_out;
    for (_, key, reason, _) in first {
        awkward.note(&key, || reason.to_owned());
    }
    (awkward.count, awkward.left_out) = (count, count);
    let (mut records, mut cases) = (entries.records(), Cases::default());
    while let Some(record) = records.next()? {
        let entry = Entry::read(record)?;
        if let Some(twin) = cases.twin(entry.path) {
            awkward.note_case_twin(&twin.replace('\0', "/"));
        }
        if !entry.changed {
            continue;
        }
        let path = entry.path.replace('\0', "/");
        let key = match entry.object {
            Some(object) => object.key_at(&entry, mount_of(sources, object.source)?).into_owned(),
            None => path.clone(),
        };
        awkward.note(&key, || format!("is {:?}", cut(&path)));
    }
    Ok(awkward)
}

/// The tree of some entries whose files have these addresses, one for each that is not empty.
pub(crate) struct Steps<'a> {
    pub(crate) entries: &'a Log,
    pub(crate) addresses: &'a Log,
}

impl Walk for Steps<'_> {
    fn walk(&self, visit: &mut dyn FnMut(Step<'_>) -> Result<(), WriteError>) -> Result<(), WriteError> {
        let (mut records, mut addresses) = (self.entries.records(), self.addresses.records());
        // The folders from the root to where the walk stands: lengths of their paths.
        let mut open: Vec<usize> = Vec::new();
        let mut here = String::new();
        while let Some(record) = records.next()? {
            let Entry {
                path,
                is_folder,
                changed: _,
                object,
            } = Entry::read(record)?;
            let shared = shared_parts(&here, path);
            while open.pop_if(|length| *length > shared).is_some() {
                visit(Step::Out)?;
            }
            let mut at = open.last().copied().unwrap_or(0);
            while at < path.len() {
                let start = if at == 0 { 0 } else { at + 1 };
                let end = path[start..].find('\0').map_or(path.len(), |found| start + found);
                let name = &path[start..end];
                let file = object.filter(|_| end == path.len() && !is_folder);
                if let Some(object) = file {
                    visit(Step::File(File {
                        name,
                        bytes: object.bytes,
                        address: address(object.bytes, &mut addresses)?,
                        modified_unix_nanos: object.modified_unix_nanos,
                    }))?;
                    break;
                }
                visit(Step::Into(name))?;
                open.push(end);
                at = end;
            }
            here.clear();
            here.push_str(path);
        }
        for _ in open {
            visit(Step::Out)?;
        }
        Ok(())
    }
}

fn address(bytes: u64, addresses: &mut crate::scratch::Records<'_>) -> io::Result<u64> {
    if bytes == 0 {
        return Ok(0);
    }
    let record = addresses.next()?.and_then(|record| record.first_chunk());
    Ok(u64::from_le_bytes(*record.ok_or_else(torn)?))
}
