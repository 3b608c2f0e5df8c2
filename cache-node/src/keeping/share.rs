//! What is kept of one part of a space: what falls under one rule.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use penstock_policy::{Auto, Lfu, Lru, Policy};

use super::Hold;
use super::passing::Passing;
use crate::limits::SHARE_IDLE_MAX;
use crate::rules::{Eviction, Rule};

/// Cells of which the last read is remembered: a file that is read in pieces is read once.
pub(super) const LAST_READ_CELLS: usize = 64;

/// Times of reads that are of no use any more, beside as many as are.
const STALE_TIMES_MAX: usize = 1024;

pub(super) struct Share {
    policy: Kept,
    /// What the policy may hold, as it was last told.
    capacity: u64,
    /// When somebody read, as of the last look.
    read_at: Instant,
    was_read: bool,
    is_idle: bool,
    pub(super) passing: Passing,
    /// Of what is never evicted; `None` if the rule does not pin.
    pinned: Option<Pinned>,
    /// `None` if the rule has no time to live.
    ages: Option<Ages>,
    /// By a hash of the key.
    last_read: [u64; LAST_READ_CELLS],
}

/// Bytes that are pinned in all spaces, and may be.
#[derive(Debug, Default)]
pub(super) struct PinnedBytes {
    pub(super) held: AtomicU64,
    pub(super) max: AtomicU64,
}

impl PinnedBytes {
    fn is_exceeded(&self) -> bool {
        self.held.load(Ordering::Relaxed) > self.max.load(Ordering::Relaxed)
    }
}

struct Pinned {
    cells: HashMap<u64, u32>,
    bytes: u64,
    all: Arc<PinnedBytes>,
}

/// When each cell was last read, to the second.
struct Ages {
    ttl: Duration,
    begun: Instant,
    /// Seconds after `begun`, as of the last look.
    now: u32,
    read_at: HashMap<u64, u32>,
    /// Each cell, with a time that may have been followed by another.
    oldest: BinaryHeap<Reverse<(u32, u64)>>,
}

enum Kept {
    Auto(Box<Auto>),
    Lru(Lru),
    Lfu(Lfu),
}

impl Kept {
    fn new(eviction: Eviction, capacity: u64) -> Self {
        match eviction {
            Eviction::Auto => Self::Auto(Box::new(Auto::new(capacity))),
            Eviction::Lru => Self::Lru(Lru::new(capacity)),
            Eviction::Lfu => Self::Lfu(Lfu::new(capacity)),
        }
    }

    fn policy(&mut self) -> &mut dyn Policy {
        match self {
            Self::Auto(policy) => &mut **policy,
            Self::Lru(policy) => policy,
            Self::Lfu(policy) => policy,
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Auto(policy) => policy.bytes(),
            Self::Lru(policy) => policy.bytes(),
            Self::Lfu(policy) => policy.bytes(),
        }
    }
}

impl Share {
    pub(super) fn new(rule: &Rule, capacity: u64, pinned: &Arc<PinnedBytes>) -> Self {
        Self {
            policy: Kept::new(rule.eviction, capacity),
            capacity,
            read_at: Instant::now(),
            was_read: true,
            is_idle: false,
            passing: Passing::default(),
            pinned: rule.pin.then(|| Pinned {
                cells: HashMap::new(),
                bytes: 0,
                all: pinned.clone(),
            }),
            ages: rule.ttl.map(|ttl| Ages {
                ttl,
                begun: Instant::now(),
                now: 0,
                read_at: HashMap::new(),
                oldest: BinaryHeap::new(),
            }),
            last_read: [u64::MAX; LAST_READ_CELLS],
        }
    }

    /// Looks who is read, and how long nobody has.
    pub(super) fn look(&mut self, now: Instant) {
        if std::mem::take(&mut self.was_read) {
            self.read_at = now;
            self.is_idle = false;
        } else {
            self.is_idle = now.duration_since(self.read_at) > SHARE_IDLE_MAX;
        }
        if let Some(ages) = &mut self.ages {
            let age = now.saturating_duration_since(ages.begun).as_secs();
            ages.now = u32::try_from(age).unwrap_or(u32::MAX);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.is_idle
    }

    /// Bytes that could go.
    pub(super) fn bytes(&self) -> u64 {
        self.policy.bytes()
    }

    /// Bytes that cannot.
    pub(super) fn pinned_bytes(&self) -> u64 {
        self.pinned.as_ref().map_or(0, |pinned| pinned.bytes)
    }

    /// How a cell that is stored is held.
    pub(super) fn hold_of(&self, key: u64) -> Hold {
        let is_pinned = |pinned: &Pinned| pinned.cells.contains_key(&key);
        if self.pinned.as_ref().is_some_and(is_pinned) {
            Hold::Pinned
        } else if self.passing.knows(key) {
            Hold::Passing
        } else {
            Hold::Kept
        }
    }

    /// Whether so many more could be kept without any going.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let pins = self.pinned.as_ref().is_some_and(|pinned| pinned.fits(bytes));
        pins || self.policy.bytes() + bytes <= self.capacity
    }

    pub(super) fn set_ttl(&mut self, ttl: Option<Duration>) {
        if let (Some(ages), Some(ttl)) = (&mut self.ages, ttl) {
            ages.ttl = ttl;
        }
    }

    pub(super) fn resize(&mut self, capacity: u64) {
        self.capacity = capacity;
        self.policy.policy().resize(capacity);
    }

    /// Whether it is kept, or should be.
    pub(super) fn read(&mut self, key: u64, bytes: u32) -> bool {
        self.last_read[place(key)] = key;
        self.was_read = true;
        if let Some(ages) = &mut self.ages {
            ages.read(key);
        }
        match &self.pinned {
            Some(pinned) if pinned.cells.contains_key(&key) || pinned.fits(u64::from(bytes)) => true,
            _ => self.policy.policy().read(key, bytes),
        }
    }

    /// A read that another share decides about; whether it should be kept here too.
    pub(super) fn is_wanted(&mut self, key: u64, bytes: u32) -> bool {
        self.last_read[place(key)] != key && self.read(key, bytes)
    }

    pub(super) fn hit(&mut self, key: u64, bytes: u32, is_through: bool) {
        self.was_read = true;
        let is_new = self.last_read[place(key)] != key;
        if is_new && self.read(key, bytes) {
            // Also of one that the policy does not know: it is stored, so it must be able to go.
            self.keep(key, bytes);
        } else if is_through {
            self.passing.spend(key);
        }
    }

    /// A cell that is stored, of which nothing more is known. What is known already is not touched.
    pub(super) fn found(&mut self, key: u64, bytes: u32) {
        if !self.passing.knows(key) {
            let read_at = self.ages.as_ref().and_then(|ages| ages.read_at.get(&key).copied());
            self.keep(key, bytes);
            if let (Some(ages), Some(read_at)) = (&mut self.ages, read_at) {
                ages.read_at.insert(key, read_at);
            }
        }
    }

    /// Takes out what is pinned and `stays` refuses: keys and bytes.
    pub(super) fn unpin(&mut self, stays: impl Fn(u64) -> bool) -> Vec<(u64, u32)> {
        let Some(pinned) = &mut self.pinned else {
            return Vec::new();
        };
        let gone = pinned
            .cells
            .iter()
            .map(|(key, bytes)| (*key, *bytes))
            .filter(|(key, _)| !stays(*key));
        let gone: Vec<_> = gone.collect();
        for (key, _) in &gone {
            pinned.remove(*key);
        }
        gone
    }

    /// Makes as much of what is pinned able to go as is too much; the room became smaller.
    pub(super) fn unpin_excess(&mut self) {
        let Some(pinned) = &mut self.pinned else { return };
        while pinned.all.is_exceeded() {
            let Some((key, bytes)) = pinned.cells.iter().next().map(|(key, bytes)| (*key, *bytes)) else {
                return;
            };
            pinned.remove(key);
            self.policy.policy().inserted(key, bytes);
        }
    }

    pub(super) fn keep(&mut self, key: u64, bytes: u32) {
        self.passing.remove(key);
        if let Some(ages) = &mut self.ages {
            ages.stored(key);
        }
        let pins = |pinned: &mut Option<Pinned>| pinned.as_mut().is_some_and(|pinned| pinned.insert(key, bytes));
        if pins(&mut self.pinned) {
            self.policy.policy().removed(key);
        } else {
            self.policy.policy().inserted(key, bytes);
        }
    }

    pub(super) fn removed(&mut self, key: u64) {
        let is_pinned = |pinned: &mut Option<Pinned>| pinned.as_mut().is_some_and(|pinned| pinned.remove(key));
        if !self.passing.remove(key) && !is_pinned(&mut self.pinned) {
            self.policy.policy().removed(key);
        }
        if let Some(ages) = &mut self.ages {
            ages.read_at.remove(&key);
        }
    }

    pub(super) fn victim(&mut self) -> Option<u64> {
        self.policy.policy().victim()
    }

    /// A cell that nobody has read for longer than its rule allows. Told once.
    pub(super) fn next_expired(&mut self) -> Option<u64> {
        let ages = self.ages.as_mut()?;
        let is_pinned = |key: &u64| {
            self.pinned
                .as_ref()
                .is_some_and(|pinned| pinned.cells.contains_key(key))
        };
        std::iter::from_fn(|| ages.next_expired()).find(|key| !is_pinned(key))
    }
}

impl Pinned {
    fn fits(&self, bytes: u64) -> bool {
        self.all.held.load(Ordering::Relaxed) + bytes <= self.all.max.load(Ordering::Relaxed)
    }

    /// Whether it is pinned now: there may be no room for it.
    fn insert(&mut self, key: u64, bytes: u32) -> bool {
        self.remove(key);
        let fits = self.fits(u64::from(bytes));
        if fits {
            self.all.held.fetch_add(u64::from(bytes), Ordering::Relaxed);
            self.bytes += u64::from(bytes);
            self.cells.insert(key, bytes);
        }
        fits
    }

    fn remove(&mut self, key: u64) -> bool {
        let removed = self.cells.remove(&key);
        if let Some(bytes) = removed {
            self.all.held.fetch_sub(u64::from(bytes), Ordering::Relaxed);
            self.bytes -= u64::from(bytes);
        }
        removed.is_some()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.all.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Ages {
    /// Of what is not stored nothing is remembered.
    fn read(&mut self, key: u64) {
        if let Some(read_at) = self.read_at.get_mut(&key) {
            *read_at = self.now;
        }
    }

    fn stored(&mut self, key: u64) {
        if self.read_at.insert(key, self.now).is_some() {
            return;
        }
        // Those of cells that are gone stay until they come up.
        if self.oldest.len() > 2 * self.read_at.len() + STALE_TIMES_MAX {
            let times = self.read_at.iter().map(|(key, read_at)| Reverse((*read_at, *key)));
            self.oldest = times.collect();
        } else {
            self.oldest.push(Reverse((self.now, key)));
        }
    }

    fn next_expired(&mut self) -> Option<u64> {
        let ttl = u32::try_from(self.ttl.as_secs()).unwrap_or(u32::MAX);
        let limit = self.now.checked_sub(ttl)?;
        while self.oldest.peek().is_some_and(|Reverse((noted, _))| *noted <= limit) {
            let Reverse((noted, key)) = self.oldest.pop()?;
            match self.read_at.get(&key) {
                Some(read_at) if *read_at > noted => self.oldest.push(Reverse((*read_at, key))),
                Some(_) => {
                    self.read_at.remove(&key);
                    return Some(key);
                }
                None => {}
            }
        }
        None
    }
}

fn place(key: u64) -> usize {
    (key ^ key >> 8) as usize % LAST_READ_CELLS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_that_are_remembered_do_not_grow_with_what_was_read() {
        let mut ages = Ages {
            ttl: Duration::from_secs(60),
            begun: Instant::now(),
            now: 0,
            read_at: HashMap::new(),
            oldest: BinaryHeap::new(),
        };
        for key in 0..100_000 {
            ages.stored(key);
            ages.stored(7);
            ages.read_at.remove(&key);
        }
        assert!(ages.oldest.len() <= 2 * STALE_TIMES_MAX, "{}", ages.oldest.len());
        ages.stored(3);
        ages.now = 61;
        assert_eq!(ages.next_expired(), Some(3));
    }
}
