//! What sources list, gathered as it comes: sorted by the names in the tree, in bounded memory.

use std::collections::BTreeSet;
use std::io;

use crate::build::BuildError;
use crate::entry::{self, Entry, Object};
use crate::limits::EXAMPLES_MAX;
use crate::names::{self, Names};
use crate::object::Listed;
use crate::scratch::Scratch;
use crate::sorter::Sorter;
use crate::tree::{self, Named, is_below};

/// Listings of which more may come, in any order and in pieces of any size.
pub struct Gathering {
    pub(crate) scratch: Scratch,
    pub(crate) sources: Vec<Source>,
    entries: Sorter,
    left_out: LeftOut,
    objects: u64,
    /// Places for one record and for one version.
    record: (Vec<u8>, Vec<u8>),
}

/// A source of which objects are gathered.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) identity: String,
    /// Where it stands, with NUL between the parts.
    pub(crate) mount: String,
}

/// Number of a source in a [`Gathering`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceNumber(pub(crate) u16);

impl Gathering {
    /// Nothing yet. What does not fit in memory goes to `scratch`.
    pub fn new(scratch: Scratch) -> Self {
        Self {
            entries: Sorter::new(&scratch, entry::order),
            scratch,
            sources: Vec::new(),
            left_out: LeftOut::default(),
            objects: 0,
            record: Default::default(),
        }
    }

    /// A source that stands at `path` of the tree. `identity` names it across revisions.
    ///
    /// # Errors
    /// When it cannot stand there, or is one too many.
    pub fn begin_source(&mut self, identity: String, path: &str) -> Result<SourceNumber, BuildError> {
        // An index of the table of extents has 16 bits.
        let number = u16::try_from(self.sources.len())
            .ok()
            .filter(|number| *number < u16::MAX)
            .ok_or(BuildError::TooManySources)?;
        let mount = tree::mount(path)?;
        if !mount.is_empty() {
            let folder = Entry {
                path: &mount,
                is_folder: true,
                changed: false,
                object: None,
            };
            folder.write(&mut self.record.0);
            self.entries.push(&self.record.0).map_err(BuildError::Scratch)?;
        }
        self.sources.push(Source { identity, mount });
        Ok(SourceNumber(number))
    }

    /// Objects of a source. All sources have begun before: one that stands in the folder of another covers what that has there.
    ///
    /// # Errors
    /// When there is no room for them.
    pub fn add(&mut self, source: SourceNumber, objects: &[Listed]) -> Result<(), BuildError> {
        let SourceNumber(source) = source;
        self.objects += objects.len() as u64;
        u32::try_from(self.objects).map_err(|_| BuildError::TooManyObjects)?;
        for listed in objects {
            match tree::named(&self.sources[usize::from(source)].mount, listed) {
                Ok(None) => {}
                Ok(Some(Named {
                    path,
                    is_folder,
                    changed,
                })) => {
                    if let Some(reason) = covered(&self.sources, source, &path) {
                        // A folder has nothing to lose.
                        if !is_folder {
                            self.left_out.note(source, &listed.key, reason);
                        }
                        continue;
                    }
                    let (record, version) = &mut self.record;
                    let entry = Entry {
                        path: &path,
                        is_folder,
                        changed,
                        object: Some(Object::of(source, listed, version)),
                    };
                    entry.write(record);
                    self.entries.push(record).map_err(BuildError::Scratch)?;
                }
                Err(reason) => self.left_out.note(source, &listed.key, reason),
            }
        }
        Ok(())
    }

    /// The names of all that was gathered.
    pub(crate) fn names(&mut self) -> io::Result<Names> {
        let entries = std::mem::replace(&mut self.entries, Sorter::new(&self.scratch, entry::order));
        let left_out = std::mem::take(&mut self.left_out);
        names::names(entries.sorted()?, &self.sources, left_out, &self.scratch)
    }
}

/// Why an object of a source does not stand at `path`: another source stands there or above, at a longer path than its own.
pub(crate) fn covered(sources: &[Source], source: u16, path: &str) -> Option<&'static str> {
    let own = &sources[usize::from(source)].mount;
    let mut others = sources.iter().map(|other| &other.mount);
    let is_covered = others.any(|mount| mount.len() > own.len() && (path == mount || is_below(path, mount)));
    is_covered.then_some("left out: another source stands there, and the one with the longest path counts")
}

/// Objects that are not in the tree: how many, and the first by source, key and reason.
#[derive(Default)]
pub(crate) struct LeftOut {
    pub(crate) count: u64,
    /// The number tells apart what is the same otherwise.
    pub(crate) first: BTreeSet<(u16, String, &'static str, u64)>,
}

impl LeftOut {
    pub(crate) fn note(&mut self, source: u16, key: &str, reason: &'static str) {
        self.count += 1;
        self.first.insert((source, key.to_owned(), reason, self.count));
        if self.first.len() > EXAMPLES_MAX {
            self.first.pop_last();
        }
    }
}
