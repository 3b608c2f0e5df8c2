//! How cells, stripes and spaces leave a [`Store`].

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use penstock_protocol::geometry::BLOCK_BYTES;
use penstock_protocol::ids::SpaceId;
use penstock_protocol::side::BLOCKS;

use super::{Key, Known, Open, Store, Stripe, lock, read, write};

impl Store {
    /// The cell of a block, if it is there.
    pub(crate) fn cell(&self, space: &SpaceId, number: u64, block: u32) -> Option<Range<u32>> {
        let stripe = self.stripe(space, number)?;
        Some(stripe.cell(block)).filter(|cell| !cell.is_empty())
    }

    /// Makes the cell of a block missing; returns its blocks, none if it was missing already, `None` when it cannot be told. What
    /// it took up is given back to the disk by [`Store::punch`].
    pub(crate) fn evict(&self, space: &SpaceId, number: u64, block: u32) -> Option<Range<u32>> {
        let key = (*space, number);
        let Some(stripe) = self.stripe(space, number) else {
            let is_gone = !read(&self.usage).stripes.contains_key(&key);
            return is_gone.then_some(block..block);
        };
        let cell = stripe.evict(block);
        if !cell.is_empty() {
            write(&self.usage).subtract(key, cell.len() as u64 * BLOCK_BYTES);
            lock(&self.owing).entry(key).or_insert(stripe);
        }
        Some(cell)
    }

    /// Opens a stripe, so that its cells become known, and closes it if nobody else has it. Done once, whether it can be opened
    /// or not.
    pub(crate) fn look_at(&self, key: Key) {
        let stripe = self.stripe(&key.0, key.1);
        let is_untold = write(&self.usage).untold.remove(&key);
        let Some(stripe) = stripe else {
            write(&self.usage).estimates.remove(&key);
            return;
        };
        if is_untold {
            (self.found)(&key.0, key.1, &mut stripe.cells(0..BLOCKS));
        }
        drop(stripe);
        self.punch();
        self.close(key);
    }

    /// Closes a stripe if nobody has it.
    pub(crate) fn close(&self, key: Key) {
        let mut places = write(&self.open);
        if places.get(&key).is_some_and(Open::is_idle) {
            places.remove(&key);
        }
    }

    /// Gives the disk what evicted cells took up, and removes stripes of which nothing is left. False when somebody still sends
    /// some of it: then it is to be done again.
    pub(crate) fn punch(&self) -> bool {
        let owing = std::mem::take(&mut *lock(&self.owing));
        let mut is_done = true;
        for (key, stripe) in owing {
            let is_punched = stripe.punch().unwrap_or_else(|error| {
                // The blocks are missing all the same; the next who store there use the place.
                tracing::warn!(space = %key.0, stripe = key.1, %error, "punch holes into a stripe");
                true
            });
            if !is_punched {
                is_done = false;
                lock(&self.owing).entry(key).or_insert(stripe);
            } else if stripe.present_blocks() == 0 && !self.remove_if_empty(key, stripe) {
                // Somebody has it. Looked at again with the next round.
                if let Known::Open(stripe) = self.known(&key.0, key.1) {
                    lock(&self.owing).entry(key).or_insert(stripe);
                }
            }
        }
        is_done
    }

    /// Removes the files of a stripe that has no blocks; false when somebody else has it.
    fn remove_if_empty(&self, key: Key, stripe: Arc<Stripe>) -> bool {
        drop(stripe);
        // Nobody opens or stores meanwhile.
        let _wanted = write(&self.wanted);
        let mut places = write(&self.open);
        let is_empty = |open: &Arc<Open>| open.stripe.get().is_some_and(|stripe| stripe.present_blocks() == 0);
        match places.get(&key) {
            Some(open) if !is_empty(open) => return true,
            Some(open) if !open.is_idle() => return false,
            Some(_) => {}
            // It went with its space.
            None => return true,
        }
        places.remove(&key);
        drop(places);
        let folder = self.folder.join(key.0.to_string());
        for ending in ["data", "side"] {
            if let Err(error) = remove_file(&folder.join(format!("{}.{ending}", key.1))) {
                tracing::warn!(space = %key.0, stripe = key.1, %error, "remove a stripe of which nothing is left");
            }
        }
        write(&self.usage).remove(key);
        true
    }

    /// Removes every space that is not in `wanted` and takes no more of it; `None` keeps and takes all. Waits for what is
    /// being stored.
    pub(crate) fn keep_only(&self, wanted: Option<HashSet<SpaceId>>) {
        if *read(&self.wanted) != wanted {
            write(&self.wanted).clone_from(&wanted);
        }
        let Some(wanted) = wanted else { return };
        let stored = self.spaces().into_iter().map(|(space, _)| space);
        for space in stored.filter(|space| !wanted.contains(space)) {
            write(&self.open).retain(|(of, _), _| *of != space);
            match remove_space(&self.folder.join(space.to_string())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%space, %error, "remove a space that no revision uses; tried again with the next configuration");
                    continue;
                }
                _ => {}
            }
            let mut usage = write(&self.usage);
            let keys: Vec<Key> = usage.stripes.keys().filter(|(of, _)| *of == space).copied().collect();
            keys.into_iter().for_each(|key| usage.remove(key));
            drop(usage);
            tracing::info!(%space, "removed a space that no revision uses");
        }
    }
}

/// Removes the folder of a space. Files are cut before they are unlinked: a mounter that was handed them keeps them open, and
/// what it does not use any more would take up the disk unseen.
fn remove_space(folder: &Path) -> io::Result<()> {
    for file in fs::read_dir(folder)? {
        // What is no file, or is gone by now, is the next line's business.
        let _ = remove_file(&file?.path());
    }
    fs::remove_dir_all(folder)
}

fn remove_file(path: &Path) -> io::Result<()> {
    // What cannot be cut is removed all the same.
    if let Ok(file) = OpenOptions::new().write(true).open(path) {
        file.set_len(0)?;
    }
    fs::remove_file(path)
}
