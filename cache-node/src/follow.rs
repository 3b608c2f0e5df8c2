//! Readers of large objects and how far was fetched ahead of each: bookkeeping around [`plan`](crate::plan).
//!
//! Most reads of a sequential reader are hits, which must stay cheap and still keep the next window on its way. So a page of
//! the second half of each window is marked, as the kernel's read-ahead does (mm/readahead.c, PG_readahead): a hit looks only
//! whether there is a mark, and whoever comes to one goes on fetching.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use penstock_protocol::geometry::{BlockRange, PAGE_BYTES};
use penstock_protocol::ids::SpaceId;
use penstock_revision::Extent;

use crate::limits::{FOLLOWED_OBJECTS_MAX, FOLLOWED_READERS_MAX};
use crate::plan::{self, Followed, Reach};

/// All readers that are followed.
///
/// *Lock order*: `readers`, then `marks`.
#[derive(Default)]
pub(crate) struct FollowedReads {
    /// By space and address of the object; the reader that was heard of last is the last.
    readers: Mutex<HashMap<(SpaceId, u64), Vec<Followed>>>,
    marks: RwLock<HashSet<(SpaceId, u64)>>,
    marks_count: AtomicUsize,
}

impl FollowedReads {
    /// Plans for a read of `start..end` within `extent`.
    pub(crate) fn plan(&self, space: &SpaceId, extent: &Extent, start: u64, end: u64, reach: Reach) -> Plan {
        let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = readers.get(&(*space, extent.address));
        let found = known.and_then(|known| known.iter().rposition(|followed| followed.expects(start)));
        let before = known.zip(found).map(|(known, at)| known[at]);
        let (wanted, after) = plan::wanted(extent, start, end, before, reach);
        Plan { wanted, before, after }
    }

    /// Remembers what was planned, once it is clear that it will be fetched.
    pub(crate) fn follow(&self, space: &SpaceId, extent: &Extent, plan: &Plan) {
        let Some(after) = plan.after else { return };
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (*space, extent.address);
        if readers.len() >= FOLLOWED_OBJECTS_MAX && !readers.contains_key(&key) {
            readers.clear();
            self.change_marks(|marks| {
                marks.clear();
                true
            });
        }
        let known = readers.entry(key).or_default();
        let mut is_marked = false;
        if let Some(at) = known.iter().position(|followed| Some(*followed) == plan.before) {
            is_marked = self.unmark(space, &known.remove(at));
        } else if known.len() >= FOLLOWED_READERS_MAX {
            self.unmark(space, &known.remove(0));
        }
        // At the end of the object, or of the stripe of this node, there is no next window.
        let goes_further = plan.before.is_none_or(|before| after.ahead_until > before.ahead_until);
        if let Some(page) = after.marked_page().filter(|_| goes_further || is_marked) {
            self.change_marks(|marks| marks.insert((*space, page)));
        }
        known.push(after);
    }

    /// The marked page to which a hit comes, and which has no mark then.
    pub(crate) fn takes_mark(&self, space: &SpaceId, range: BlockRange) -> Option<u64> {
        if self.marks_count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut pages = range.address() / PAGE_BYTES..range.end().div_ceil(PAGE_BYTES);
        let marks = self.marks.read().unwrap_or_else(PoisonError::into_inner);
        let page = pages.find(|page| marks.contains(&(*space, *page)))?;
        drop(marks);
        // Of two that come at once one goes on.
        self.change_marks(|marks| marks.remove(&(*space, page))).then_some(page)
    }

    /// True when there was a mark.
    fn unmark(&self, space: &SpaceId, followed: &Followed) -> bool {
        followed
            .marked_page()
            .is_some_and(|page| self.change_marks(|marks| marks.remove(&(*space, page))))
    }

    fn change_marks(&self, change: impl FnOnce(&mut HashSet<(SpaceId, u64)>) -> bool) -> bool {
        let mut marks = self.marks.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut marks);
        self.marks_count.store(marks.len(), Ordering::Relaxed);
        changed
    }
}

/// What to fetch for a read.
pub(crate) struct Plan {
    /// Addresses, whole blocks, that include the read.
    pub(crate) wanted: Range<u64>,
    before: Option<Followed>,
    after: Option<Followed>,
}

#[cfg(test)]
mod tests {
    use penstock_revision::{ObjectVersion, Version};

    use super::*;

    const SPACE: SpaceId = SpaceId([1; 16]);

    fn extent(bytes: u64) -> Extent {
        let object = ObjectVersion {
            source: 0,
            key: String::new(),
            version: Version::None,
        };
        Extent {
            address: 0,
            bytes,
            object,
        }
    }

    fn read(followed: &FollowedReads, extent: &Extent, start: u64, end: u64) -> Range<u64> {
        let plan = followed.plan(&SPACE, extent, start, end, Reach::Space);
        followed.follow(&SPACE, extent, &plan);
        plan.wanted
    }

    /// Addresses of the pages that a reader of hits would find marked.
    fn marked(followed: &FollowedReads, bytes: u64) -> Vec<u64> {
        let pages = (0..bytes).step_by(PAGE_BYTES as usize);
        pages
            .filter(|at| {
                followed
                    .takes_mark(&SPACE, BlockRange::new(*at, PAGE_BYTES).unwrap())
                    .is_some()
            })
            .collect()
    }

    #[test]
    fn the_second_half_of_a_window_has_one_mark_and_it_is_taken_once() {
        let (followed, large) = (FollowedReads::default(), extent(1 << 30));
        let window = read(&followed, &large, 0, PAGE_BYTES);
        let marks = marked(&followed, 1 << 30);
        assert!(
            matches!(marks[..], [mark] if (window.end / 2..window.end).contains(&mark)),
            "{marks:?} of {window:?}"
        );
        assert_eq!(marked(&followed, 1 << 30), [0; 0]);
    }

    #[test]
    fn nothing_is_marked_when_everything_was_fetched() {
        let (followed, object) = (FollowedReads::default(), extent(9 * PAGE_BYTES));
        let mut at = 0;
        while read(&followed, &object, at, at + PAGE_BYTES).end < object.bytes {
            at = marked(&followed, object.bytes)[0];
        }
        marked(&followed, object.bytes);
        // A reader that comes by once more.
        read(&followed, &object, object.bytes - PAGE_BYTES, object.bytes);
        assert_eq!(marked(&followed, object.bytes), [0; 0]);
    }
}
