//! The stripes of one session whose files this process has.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::{RevisionId, SpaceId};
use tokio::sync::OwnedSemaphorePermit;

use super::Neighbours;
use super::neighbour::{Asking, Neighbour, Work};
use super::stripe::{Look, NearStripe};
use crate::limits::{LOOK_MAX, LOOKS_MAX, NEIGHBOUR_MISSES_MAX, NEIGHBOUR_PAUSE};
use crate::reader::TryRead;

/// The stripes; clones are the same.
#[derive(Clone)]
pub(crate) struct Stripes(Arc<Inner>);

pub(super) struct Inner {
    neighbours: Neighbours,
    revision: RevisionId,
    space: SpaceId,
    open: RwLock<HashMap<u64, Arc<Near>>>,
    asking: Mutex<Turn>,
    looks: Looks,
}

/// An open stripe. Its files are closed on the thread of its neighbour.
struct Near {
    /// Taken when it is dropped.
    files: Option<(Vec<NearStripe>, OwnedSemaphorePermit)>,
    neighbour: Arc<Neighbour>,
    used_at: AtomicU64,
    /// Looks in vain since the last hit.
    misses: AtomicU32,
}

/// One question at a time: a session that reads in many stripes must not fill the thread of a neighbour with them.
#[derive(Default)]
struct Turn {
    is_taken: bool,
    not_before: Option<Instant>,
}

impl Stripes {
    /// None yet, of a revision and its space.
    pub(crate) fn new(neighbours: Neighbours, revision: RevisionId, space: SpaceId) -> Self {
        let inner = Arc::new(Inner {
            neighbours,
            revision,
            space,
            open: RwLock::default(),
            asking: Mutex::default(),
            looks: Looks::new(),
        });
        let mut sessions = inner
            .neighbours
            .0
            .sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|session| session.strong_count() > 0);
        sessions.push(Arc::downgrade(&inner));
        drop(sessions);
        Self(inner)
    }

    /// Reads whole blocks from the files that are open. Does not wait.
    pub(crate) fn try_read(&self, range: BlockRange, into: &mut [u8]) -> TryRead {
        let near = self.0.stripes().get(&range.stripe()).cloned();
        let (Some(near), Some(_looking)) = (near, self.0.looks.begin()) else {
            return TryRead::Miss;
        };
        let Some((tiers, _)) = &near.files else {
            return TryRead::Miss;
        };
        match read_first(tiers, &self.0.space, range, into) {
            Look::Hit => {
                near.used_at.store(self.0.neighbours.tick(), Ordering::Relaxed);
                near.misses.store(0, Ordering::Relaxed);
                near.neighbour.note(&self.0.revision, range);
                return TryRead::Hit;
            }
            Look::Miss => {
                // It may be another's by now, or its files may have been replaced without being cut.
                if near.misses.fetch_add(1, Ordering::Relaxed) >= NEIGHBOUR_MISSES_MAX {
                    self.0.close(range.stripe());
                }
            }
            Look::Cold if self.0.takes_turn() => near.neighbour.send(Work::Warm(self.0.clone(), range.stripe())),
            Look::Cold => {}
            Look::Gone => self.0.close(range.stripe()),
        }
        TryRead::Miss
    }

    /// Whether the files of a stripe are not open.
    pub(crate) fn lacks(&self, stripe: u64) -> bool {
        !self.0.stripes().contains_key(&stripe)
    }

    /// Opens the files of a stripe in the background if its `owner` (`host:port`) is on this node.
    pub(crate) fn want(&self, stripe: u64, owner: &str) {
        if let Some(neighbour) = self.0.neighbours.find(owner)
            && self.0.takes_turn()
        {
            neighbour.send(Work::Open(self.0.clone(), neighbour.clone(), stripe));
        }
    }
}

impl Inner {
    /// Whether nobody asks now, and a refusal is not too near. Who takes the turn gives it back.
    fn takes_turn(&self) -> bool {
        let mut turn = self.turn();
        let is_time = turn.not_before.is_none_or(|time| Instant::now() >= time);
        let takes = is_time && !turn.is_taken;
        turn.is_taken |= takes;
        takes
    }

    fn give_turn_back(&self, was_in_vain: bool) {
        *self.turn() = Turn {
            is_taken: false,
            not_before: was_in_vain.then(|| Instant::now() + NEIGHBOUR_PAUSE),
        };
    }

    /// Asks for the files of a stripe. On the thread of the neighbour.
    pub(super) fn open(&self, neighbour: Arc<Neighbour>, stripe: u64, asking: &mut Asking<'_>) {
        let asked = self.ask(neighbour, stripe, asking);
        if let Err(error) = &asked {
            tracing::debug!(revision = %self.revision, stripe, %error, "ask a cache node of this node for a stripe");
        }
        self.give_turn_back(!asked.unwrap_or(false));
    }

    /// False when it has none, or this process has too many open.
    fn ask(&self, neighbour: Arc<Neighbour>, stripe: u64, asking: &mut Asking<'_>) -> io::Result<bool> {
        let Some(files) = asking.files(&self.revision, stripe)? else {
            return Ok(false);
        };
        let files = files
            .into_iter()
            .map(|of_tier| NearStripe::new(of_tier, &self.space, stripe));
        let files = files.collect::<io::Result<_>>()?;
        let Some(room) = self.neighbours.room() else {
            return Ok(false);
        };
        let near = Near {
            files: Some((files, room)),
            neighbour,
            used_at: AtomicU64::new(self.neighbours.tick()),
            misses: AtomicU32::new(0),
        };
        let before = self.stripes_mut().insert(stripe, Arc::new(near));
        drop(before);
        Ok(true)
    }

    /// Has the kernel read the side file of a stripe. On the thread of the neighbour.
    pub(super) fn warm(&self, stripe: u64) {
        let near = self.stripes().get(&stripe).cloned();
        let files = near.as_ref().and_then(|near| near.files.as_ref());
        let is_read = files.is_some_and(|(tiers, _)| tiers.iter().all(|files| files.read_side().is_ok()));
        self.give_turn_back(!is_read);
    }

    /// When the stripe that was used longest ago was, and which it is.
    pub(super) fn oldest(&self) -> Option<(u64, u64)> {
        let open = self.stripes();
        let used = open
            .iter()
            .map(|(stripe, near)| (near.used_at.load(Ordering::Relaxed), *stripe));
        used.min()
    }

    /// Lets go of the files of a stripe.
    pub(super) fn close(&self, stripe: u64) {
        let near = self.stripes_mut().remove(&stripe);
        drop(near);
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stripes(&self) -> RwLockReadGuard<'_, HashMap<u64, Arc<Near>>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn stripes_mut(&self) -> RwLockWriteGuard<'_, HashMap<u64, Arc<Near>>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        if let Some((files, room)) = self.files.take() {
            let files = files.into_iter().flat_map(NearStripe::into_files).collect();
            self.neighbour.send(Work::Close(files, room));
        }
    }
}

/// Reads from the first tier that has all of a range. What is apart in several is asked for over the network.
fn read_first(tiers: &[NearStripe], space: &SpaceId, range: BlockRange, into: &mut [u8]) -> Look {
    let mut looked = Look::Gone;
    for tier in tiers {
        looked = match (looked, tier.read(space, range, into)) {
            (_, Look::Hit) => return Look::Hit,
            (Look::Cold, _) | (_, Look::Cold) => Look::Cold,
            (Look::Gone, Look::Gone) => Look::Gone,
            _ => Look::Miss,
        };
    }
    looked
}

/// Keeps one thread of the session out of the files when all others hang in them: since Linux 6.12 a read with RWF_NOWAIT may
/// begin to read ahead, and on a disk that answers nothing that waits.
struct Looks {
    begun: Instant,
    active: AtomicUsize,
    /// Milliseconds after `begun` at which the last one ended.
    ended: AtomicU64,
}

struct Looking<'a>(&'a Looks);

impl Looks {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            active: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
        }
    }

    /// `None` when as many as may look, and none of them ended lately.
    fn begin(&self) -> Option<Looking<'_>> {
        let before = self.active.fetch_add(1, Ordering::Relaxed);
        let looking = Looking(self);
        let is_stuck = || self.now() - self.ended.load(Ordering::Relaxed).min(self.now()) > LOOK_MAX.as_millis() as u64;
        (before < LOOKS_MAX || !is_stuck()).then_some(looking)
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Ordering::Relaxed) <= LOOKS_MAX {
            self.0.ended.store(self.0.now(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_stays_out_of_files_in_which_the_others_hang() {
        let looks = Looks::new();
        let hanging: Vec<_> = (0..LOOKS_MAX).map(|_| looks.begin().unwrap()).collect();
        while looks.now() <= LOOK_MAX.as_millis() as u64 {
            std::hint::spin_loop();
        }
        assert!(looks.begin().is_none() && looks.begin().is_none());
        drop(hanging);
        let all: Vec<_> = (0..=LOOKS_MAX).map(|_| looks.begin()).collect();
        assert!(all.iter().all(Option::is_some), "they do not hang");
    }
}
