//! The stripes of one session whose files this process has.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::{RevisionId, SpaceId};
use tokio::sync::OwnedSemaphorePermit;

use super::Neighbours;
use super::neighbour::Neighbour;
use super::stripe::{Look, NearStripe};
use crate::limits::NEIGHBOUR_PAUSE;
use crate::reader::TryRead;

/// The stripes; clones are the same.
#[derive(Clone)]
pub(crate) struct Stripes(Arc<Inner>);

struct Inner {
    neighbours: Neighbours,
    revision: RevisionId,
    space: SpaceId,
    open: RwLock<HashMap<u64, Arc<Near>>>,
    asking: Mutex<Asking>,
    clock: AtomicU64,
}

struct Near {
    stripe: NearStripe,
    /// Who gave it.
    neighbour: Arc<Neighbour>,
    used_at: AtomicU64,
}

/// One question at a time: a session that reads in many stripes must not fill the process with them.
#[derive(Default)]
struct Asking {
    is_asked: bool,
    not_before: Option<Instant>,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Got,
    /// The owner is on another node.
    Nobody,
    InVain,
}

impl Stripes {
    /// None yet, of a revision and its space.
    pub(crate) fn new(neighbours: Neighbours, revision: RevisionId, space: SpaceId) -> Self {
        Self(Arc::new(Inner {
            neighbours,
            revision,
            space,
            open: RwLock::default(),
            asking: Mutex::default(),
            clock: AtomicU64::new(0),
        }))
    }

    /// Reads whole blocks from the files that are open. Does not wait.
    pub(crate) fn try_read(&self, range: BlockRange, into: &mut [u8]) -> TryRead {
        let Some(near) = self.0.open().get(&range.stripe()).cloned() else {
            return TryRead::Miss;
        };
        match near.stripe.read(&self.0.space, range, into) {
            Look::Hit => {
                near.used_at.store(self.0.tick(), Ordering::Relaxed);
                near.neighbour
                    .note(&self.0.revision, range, &self.0.neighbours.0.runtime);
                TryRead::Hit
            }
            Look::Miss => TryRead::Miss,
            Look::Gone => {
                self.0.open_mut().remove(&range.stripe());
                TryRead::Miss
            }
        }
    }

    /// Opens the files of a stripe in the background if its `owner` (`host:port`) is on this node.
    pub(crate) fn want(&self, stripe: u64, owner: String) {
        let is_wanted = !self.0.open().contains_key(&stripe) && self.0.neighbours.may_be_here(&owner);
        if !is_wanted || !self.0.begin_to_ask() {
            return;
        }
        let inner = self.0.clone();
        self.0.neighbours.0.runtime.spawn_blocking(move || {
            let asked = inner.ask(stripe, &owner).unwrap_or_else(|error| {
                tracing::debug!(revision = %inner.revision, stripe, owner, %error, "ask a cache node of this node for a stripe");
                Asked::InVain
            });
            *inner.asking() = Asking {
                is_asked: false,
                not_before: (asked == Asked::InVain).then(|| Instant::now() + NEIGHBOUR_PAUSE),
            };
        });
    }
}

impl Inner {
    /// Whether nobody asks now, and a refusal is not too near.
    fn begin_to_ask(&self) -> bool {
        let mut asking = self.asking();
        let is_time = asking.not_before.is_none_or(|time| Instant::now() >= time);
        let begins = is_time && !asking.is_asked;
        asking.is_asked |= begins;
        begins
    }

    fn ask(&self, stripe: u64, owner: &str) -> io::Result<Asked> {
        let Some(neighbour) = self.neighbours.find(owner) else {
            return Ok(Asked::Nobody);
        };
        let Some(files) = neighbour.open(&self.revision, stripe)? else {
            return Ok(Asked::InVain);
        };
        let Some(room) = self.room() else {
            return Ok(Asked::InVain);
        };
        let near = Near {
            stripe: NearStripe::new(files, &self.space, stripe, room)?,
            neighbour,
            used_at: AtomicU64::new(self.tick()),
        };
        self.open_mut().insert(stripe, Arc::new(near));
        Ok(Asked::Got)
    }

    /// The right to have one more open, from the stripe that was used longest ago if need be.
    fn room(&self) -> Option<OwnedSemaphorePermit> {
        let room = || self.neighbours.0.stripes.clone().try_acquire_owned().ok();
        room().or_else(|| {
            let mut open = self.open_mut();
            let used_at = |near: &Near| near.used_at.load(Ordering::Relaxed);
            let oldest = open
                .iter()
                .min_by_key(|(_, near)| used_at(near))
                .map(|(stripe, _)| *stripe)?;
            open.remove(&oldest);
            // A reader may still have it.
            room()
        })
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    fn asking(&self) -> MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> RwLockReadGuard<'_, HashMap<u64, Arc<Near>>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_mut(&self) -> RwLockWriteGuard<'_, HashMap<u64, Arc<Near>>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }
}
