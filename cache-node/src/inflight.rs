//! One fetch per block, many waiters.
//!
//! A unit is a run of blocks that arrives as one. Units never overlap. *Hidden contract*: a unit's blocks are stored before
//! it leaves the map, so whoever holds the map's lock sees a block as present, in flight, or truly missing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use penstock_buffer::Buffer;
use penstock_protocol::ids::SpaceId;

use crate::error::ReadError;
use crate::sync::{Mutex, MutexGuard, watch};

/// How a unit ended.
#[derive(Clone)]
pub(crate) enum Arrived {
    /// Here are its blocks, whether the store took them or not: what the store gives back later is another matter.
    Here(Arc<Buffer>),
    /// They could not be had.
    Failed(ReadError),
}

/// What becomes of a unit that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is stored and kept.
    Kept,
    /// It is stored until it was read.
    Passes,
    /// All of it was waited for, and it is not worth keeping.
    GivenOn,
}

/// A run of blocks on its way.
pub(crate) struct Unit {
    /// Addresses in the space, whole blocks.
    pub(crate) range: Range<u64>,
    /// What becomes of it in the store.
    pub(crate) fate: Fate,
    /// It was begun for no reader, so the policies have not heard of a read yet.
    pub(crate) is_ahead: bool,
    outcome: watch::Sender<Option<Arrived>>,
}

impl Unit {
    /// Waits until the unit has arrived or failed.
    pub(crate) async fn arrived(&self) -> Arrived {
        let mut outcome = self.outcome.subscribe();
        let arrived = match outcome.wait_for(Option::is_some).await {
            Ok(arrived) => arrived.clone(),
            // The sender is `self`, so this cannot be.
            Err(_) => None,
        };
        arrived.unwrap_or_else(|| Arrived::Failed(ReadError::Unavailable("the fetch was given up".to_owned())))
    }
}

/// All units on their way, by space and address.
#[derive(Default)]
pub(crate) struct InFlight(Mutex<Units>);

pub(crate) type Units = BTreeMap<(SpaceId, u64), Arc<Unit>>;

impl InFlight {
    /// The map, locked: no unit begins or ends meanwhile. Nothing that waits may be done under it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Units> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of a space on their way that will be kept.
    pub(crate) fn kept_bytes(&self, space: &SpaceId) -> u64 {
        let units = self.lock();
        let of_space = units.range((*space, 0)..=(*space, u64::MAX)).map(|(_, unit)| unit);
        let kept = of_space.filter(|unit| unit.fate == Fate::Kept);
        kept.map(|unit| unit.range.end - unit.range.start).sum()
    }

    /// Ends a unit: waiters go on, and it leaves the map.
    pub(crate) fn end(&self, space: &SpaceId, unit: &Unit, arrived: Arrived) {
        self.lock().remove(&(*space, unit.range.start));
        unit.outcome.send_replace(Some(arrived));
    }
}

/// The units that have blocks of `range`.
pub(crate) fn overlapping(units: &Units, space: &SpaceId, range: &Range<u64>) -> Vec<Arc<Unit>> {
    let before = units.range((*space, 0)..(*space, range.start)).next_back();
    let within = units.range((*space, range.start)..(*space, range.end));
    before
        .filter(|(_, unit)| unit.range.end > range.start)
        .into_iter()
        .chain(within)
        .map(|(_, unit)| unit.clone())
        .collect()
}

/// The parts of `wanted` that are neither among the `stored` ranges nor on their way. What is stored has to be looked at while the map
/// is locked.
pub(crate) fn missing(
    units: &Units,
    space: &SpaceId,
    wanted: Range<u64>,
    mut stored: Vec<Range<u64>>,
) -> Vec<Range<u64>> {
    let on_their_way = overlapping(units, space, &wanted);
    stored.extend(on_their_way.iter().map(|unit| unit.range.clone()));
    stored.sort_unstable_by_key(|range| range.start);
    uncovered(wanted, stored)
}

/// Puts a new unit on its way.
pub(crate) fn begin(units: &mut Units, space: &SpaceId, range: Range<u64>, fate: Fate, is_ahead: bool) -> Arc<Unit> {
    let unit = Arc::new(Unit {
        range,
        fate,
        is_ahead,
        outcome: watch::Sender::new(None),
    });
    units.insert((*space, unit.range.start), unit.clone());
    unit
}

/// The parts of `range` that none of the sorted `taken` ranges covers.
pub(crate) fn uncovered(range: Range<u64>, taken: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    let mut at = range.start;
    for part in taken {
        if part.start > at {
            left.push(at..part.start.min(range.end));
        }
        at = at.max(part.end);
        if at >= range.end {
            return left;
        }
    }
    left.push(at..range.end);
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    // A list of one range is meant, not the numbers in it.
    #[allow(clippy::single_range_in_vec_init)]
    fn what_is_uncovered_is_found() {
        for (taken, left) in [
            (vec![], vec![10..20]),
            (vec![0..30], vec![]),
            (vec![0..12, 18..30], vec![12..18]),
            (vec![12..14, 14..15], vec![10..12, 15..20]),
            (vec![0..5, 25..30], vec![10..20]),
        ] {
            assert_eq!(uncovered(10..20, taken.clone()), left, "{taken:?}");
        }
    }

    #[test]
    fn overlapping_units_are_found_and_others_are_not() {
        crate::sync::in_all_orders(|| {
            let (space, other) = (SpaceId([1; 16]), SpaceId([2; 16]));
            let mut units = Units::new();
            for range in [0..10, 10..20, 30..40] {
                begin(&mut units, &space, range, Fate::Kept, false);
            }
            begin(&mut units, &other, 5..25, Fate::Kept, false);
            let starts = |range: Range<u64>| -> Vec<u64> {
                overlapping(&units, &space, &range)
                    .iter()
                    .map(|unit| unit.range.start)
                    .collect()
            };
            assert_eq!(starts(5..31), [0, 10, 30]);
            assert_eq!(starts(20..30), [0u64; 0]);
            assert_eq!(starts(19..20), [10]);
        });
    }
}
