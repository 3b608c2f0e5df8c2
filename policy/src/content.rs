//! What a cache holds under the rules of [`s3_fifo`](crate::s3_fifo) and of [`hold`](crate::hold): both work on this, so that
//! [`auto`](crate::auto) can change the rules and move nothing. It must not know which rules are in force.

use crate::ghost::Ghost;
use crate::ring::USES_MAX;
use crate::shelves::{Place, Shelves};

/// Newcomers, of which little is known.
pub(crate) const SMALL: usize = 0;
/// What has proved itself, or came while there was room.
pub(crate) const MAIN: usize = 1;
/// What was not read for so long that it may go at any time.
pub(crate) const STALE: usize = 2;

/// Units that are looked at for one victim at the most: after a time in which everything was used, the next would otherwise
/// wait until all of millions were looked at three times.
pub(crate) const LOOKS_MAX: usize = 4096;

/// A generation of the ghost, in tenths of the capacity: on average it remembers what S3-FIFO's ghost does, nine tenths.
const GHOST_GENERATION_TENTHS: u64 = 6;

/// Units, what is remembered of others, and the capacity.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) shelves: Shelves,
    pub(crate) ghost: Ghost,
    pub(crate) capacity: u64,
}

impl Content {
    pub(crate) fn new(capacity: u64) -> Self {
        Self {
            shelves: Shelves::new(3),
            ghost: Ghost::default(),
            capacity,
        }
    }

    /// Whether so many more bytes are within the capacity.
    pub(crate) fn has_room(&self, bytes: u32) -> bool {
        self.shelves.bytes() + u64::from(bytes) <= self.capacity
    }

    /// If the unit is there: notes its size and tells where it is.
    pub(crate) fn resized(&mut self, key: u64, bytes: u32) -> Option<Place> {
        let place = self.shelves.find(key)?;
        let unit = self.shelves.get(place);
        self.shelves.set(place, unit.with_bytes(bytes));
        Some(place)
    }

    /// Remembers a unit that is not stored.
    pub(crate) fn remember(&mut self, key: u64, bytes: u32) {
        let generation = self.capacity / 10 * GHOST_GENERATION_TENTHS;
        let held = self.shelves.bytes().max(1);
        let expected = u128::from(self.shelves.units()) * u128::from(generation) / u128::from(held);
        // As long as little is held, its average says little.
        let expected = (expected as u64).min(2 * u64::from(self.shelves.units()));
        self.ghost.remember(key, bytes, generation, expected);
    }

    /// Names a unit as the next to go: it is behind the others then, so that whoever may not remove it is told another.
    pub(crate) fn condemn(&mut self, place: Place) -> u64 {
        let unit = self.shelves.get(place).condemned();
        self.shelves.put_behind(place, place.shelf(), unit);
        unit.key()
    }

    /// If the unit was named before and is still there, whoever named it may not remove it: it counts as much used, and others
    /// have their turn.
    pub(crate) fn spares(&mut self, place: Place) -> bool {
        let unit = self.shelves.get(place);
        if unit.is_condemned() {
            self.shelves.put_behind(place, MAIN, unit.with_uses(USES_MAX));
        }
        unit.is_condemned()
    }

    /// Takes a unit away. A newcomer that goes as a victim is remembered.
    pub(crate) fn removed(&mut self, key: u64) {
        let Some(place) = self.shelves.find(key) else { return };
        let unit = self.shelves.take(place);
        if unit.is_condemned() && place.shelf() == SMALL {
            self.remember(key, unit.bytes());
        }
    }
}
