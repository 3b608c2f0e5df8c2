//! The units of a cache on a few shelves, each in the order in which it was filled, with one index over all of them. It must
//! not know which shelf is for what: that is a policy.

use crate::hash::hashed;
use crate::index::Index;
use crate::ring::{POSITIONS, Ring, Unit};

/// Shelves that fit the numbers of places, less one for [`LIFTED`].
pub(crate) const SHELVES_MAX: usize = (u32::MAX / POSITIONS) as usize;

/// What the index says of a unit that is on no shelf for the moment.
const LIFTED: u32 = u32::MAX;

/// Units of one policy. Nobody has so many: their places alone would take 6 GB of memory.
pub(crate) const UNITS_MAX: u32 = POSITIONS - 1;

/// Where a unit is, until units are moved or taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u32);

impl Place {
    fn new(shelf: usize, position: u32) -> Self {
        Self(shelf as u32 * POSITIONS + position)
    }

    /// Number of the shelf.
    pub(crate) fn shelf(self) -> usize {
        (self.0 / POSITIONS) as usize
    }

    fn position(self) -> u32 {
        self.0 % POSITIONS
    }
}

/// All units of a policy.
#[derive(Clone, Debug)]
pub(crate) struct Shelves {
    rings: Vec<Ring>,
    index: Index,
    units: u32,
    bytes: u64,
}

impl Shelves {
    pub(crate) fn new(shelves: usize) -> Self {
        debug_assert!(shelves <= SHELVES_MAX);
        Self {
            rings: (0..shelves).map(|_| Ring::default()).collect(),
            index: Index::default(),
            units: 0,
            bytes: 0,
        }
    }

    /// How many units there are.
    pub(crate) fn units(&self) -> u32 {
        self.units
    }

    /// Sum of all units' sizes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn shelf(&self, shelf: usize) -> &Ring {
        &self.rings[shelf]
    }

    pub(crate) fn find(&self, key: u64) -> Option<Place> {
        let is_it = |place| self.get(Place(place)).key() == key;
        self.index.find(hashed(key), is_it).map(Place)
    }

    /// The keys of all units, shelf by shelf.
    pub(crate) fn keys(&self) -> impl Iterator<Item = u64> {
        self.rings.iter().flat_map(Ring::units).map(|unit| unit.key())
    }

    /// The unit that is first on a shelf.
    pub(crate) fn front(&self, shelf: usize) -> Option<Place> {
        self.rings[shelf].front().map(|position| Place::new(shelf, position))
    }

    pub(crate) fn get(&self, place: Place) -> Unit {
        self.rings[place.shelf()].get(place.position())
    }

    /// Replaces what is noted of a unit; its key stays.
    pub(crate) fn set(&mut self, place: Place, unit: Unit) {
        let before = self.get(place);
        debug_assert_eq!(before.key(), unit.key());
        self.bytes = self.bytes + u64::from(unit.bytes()) - u64::from(before.bytes());
        self.rings[place.shelf()].set(place.position(), unit);
    }

    /// Puts a new unit on a shelf, behind the others. False when there are as many as can be numbered.
    pub(crate) fn push(&mut self, shelf: usize, unit: Unit) -> bool {
        if self.units >= UNITS_MAX {
            return false;
        }
        let place = Place::new(shelf, self.rings[shelf].push(unit));
        let rings = &self.rings;
        let hash_at = |place| hashed(rings[Place(place).shelf()].get(Place(place).position()).key());
        self.index.insert(hashed(unit.key()), place.0, hash_at);
        self.units += 1;
        self.bytes += u64::from(unit.bytes());
        true
    }

    /// Takes a unit away.
    pub(crate) fn take(&mut self, place: Place) -> Unit {
        let unit = self.lift(place);
        self.index.remove(hashed(unit.key()), LIFTED);
        self.units -= 1;
        self.bytes -= u64::from(unit.bytes());
        unit
    }

    /// Puts a unit behind the others of a shelf, which may be its own, and notes `unit` of it.
    pub(crate) fn put_behind(&mut self, place: Place, shelf: usize, unit: Unit) {
        let before = self.lift(place);
        debug_assert!(before.key() == unit.key() && before.bytes() == unit.bytes());
        let to = Place::new(shelf, self.rings[shelf].push(unit));
        self.index.moved(hashed(unit.key()), LIFTED, to.0);
    }

    /// Takes a unit from its ring. Its entry of the index stays, and says so.
    fn lift(&mut self, place: Place) -> Unit {
        self.index.moved(hashed(self.get(place).key()), place.0, LIFTED);
        let (unit, moved) = self.rings[place.shelf()].take(place.position());
        if let Some(from) = moved {
            let other = hashed(self.get(place).key());
            self.index.moved(other, Place::new(place.shelf(), from).0, place.0);
        }
        unit
    }
}
