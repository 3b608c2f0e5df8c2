//! Which fetches begin for a read: what it needs, and what should come along.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use penstock_protocol::geometry::{BlockRange, STRIPE_BYTES, round_up_to_block};
use penstock_protocol::ids::SpaceId;
use penstock_revision::Extent;

use super::{Announced, Inner};
use crate::error::ReadError;
use crate::fetch::{Fetch, Source};
use crate::inflight::{self, Fate, Unit};
use crate::limits::{UNIT_BYTES_MAX, WHOLE_OBJECT_BYTES_MAX};
use crate::plan::Reach;
use crate::store::Stripe;
use crate::walk::Kind;

impl Inner {
    /// Starts fetches for what `range` needs and what should come along; returns the units that have blocks of `range`.
    pub(super) fn start(
        self: &Arc<Self>,
        announced: &Arc<Announced>,
        extents: &[Extent],
        range: BlockRange,
    ) -> Result<Vec<Arc<Unit>>, ReadError> {
        let space = announced.package.space();
        // What is wanted ends within the next stripe. Opening one reads files, so it is done before the lock.
        let stripes = [0, 1].map(|next| self.intake.tiers.stripes(&space, range.stripe() + next));
        self.note_cells(announced, range, |_| {});
        let is_small = |extent: &&Extent| extent.bytes <= WHOLE_OBJECT_BYTES_MAX;
        for small in extents.iter().filter(is_small) {
            let object = small.address..small.address + round_up_to_block(small.bytes);
            let kind = Kind::of(&small.object.key, small.bytes);
            self.note_walk(announced, self.walks.missed(&space, object, kind, Instant::now()));
        }
        let mut fetches = Vec::new();
        let mut units = self.intake.in_flight.lock();
        for extent in extents {
            let source = announced.source_of(extent);
            let is_from_cache = source.as_ref().is_some_and(|source| source.origin.is_a_cache());
            let wanted = if is_from_cache {
                // Whoever has it fetches ahead and keeps it.
                needed(extent, range)
            } else {
                self.wanted(&space, extent, range)
            };
            let stripe = |number: u64| {
                let opened = stripes.get(number.wrapping_sub(range.stripe()) as usize).cloned();
                match opened {
                    Some(opened) if opened.len() == self.intake.tiers.count() => opened,
                    // It may have got its first blocks in a tier since.
                    Some(_) | None => self.intake.tiers.stripes(&space, number),
                }
            };
            for hole in self.holes(&units, &space, wanted, stripe) {
                let Some(source) = &source else {
                    // What only comes along may be missing.
                    if hole.start >= range.end() || hole.end <= range.address() {
                        continue;
                    }
                    return Err(ReadError::Unavailable(format!(
                        "the source of {} is no longer part of the Dataset, or not allowed by its CacheRuntime any more",
                        extent.object.key
                    )));
                };
                let units = cut(hole, range.end())
                    .map(|piece| {
                        let fate = if is_from_cache {
                            Fate::GivenOn
                        } else {
                            self.intake.tiers.fate(&space, &piece, range)
                        };
                        let is_ahead = piece.start >= range.end() || piece.end <= range.address();
                        inflight::begin(&mut units, &space, piece, fate, is_ahead)
                    })
                    .collect();
                fetches.push(self.fetch(announced, extent, source, units, false));
            }
        }
        let needed = inflight::overlapping(&units, &space, &(range.address()..range.end()));
        drop(units);
        for fetch in fetches {
            tokio::spawn(fetch.run());
        }
        Ok(needed)
    }

    fn wanted(&self, space: &SpaceId, extent: &Extent, range: BlockRange) -> Range<u64> {
        let Range { start, end } = needed(extent, range);
        let is_shared = self.owned.read().unwrap_or_else(PoisonError::into_inner).is_some();
        let reach = if is_shared { Reach::Stripe } else { Reach::Space };
        let plan = self.followed.plan(space, extent, start, end, reach);
        if !self.intake.tiers.takes(plan.wanted.end - plan.wanted.start) {
            // What is fetched beyond the read could not be kept.
            return start..end;
        }
        self.followed.follow(space, extent, &plan);
        plan.wanted
    }

    /// The parts of `wanted` that are neither stored nor on their way.
    fn holes(
        &self,
        units: &inflight::Units,
        space: &SpaceId,
        wanted: Range<u64>,
        stripes: impl Fn(u64) -> Vec<Arc<Stripe>>,
    ) -> Vec<Range<u64>> {
        let stored = BlockRange::covering(wanted.start, wanted.end - wanted.start)
            .flat_map(|piece| {
                let stripes = stripes(piece.stripe());
                // Down and up again: what moves is in the one that it comes from or in the one that it goes to.
                let twice = stripes.iter().chain(stripes.iter().rev().skip(1));
                twice.flat_map(|stripe| stripe.present(piece)).collect::<Vec<_>>()
            })
            .collect();
        inflight::missing(units, space, wanted, stored)
    }

    /// Starts a fetch of what is missing of a small object that nobody waits for, to be kept; returns its units. May wait for
    /// the disk.
    pub(super) fn start_ahead(&self, announced: &Announced, extent: &Extent) -> Vec<Arc<Unit>> {
        let space = announced.package.space();
        let source = announced.source_of(extent);
        let Some(source) = source.filter(|source| !source.origin.is_a_cache()) else {
            return Vec::new();
        };
        let wanted = extent.address..extent.address + round_up_to_block(extent.bytes);
        let stripes = self.intake.tiers.stripes(&space, extent.address / STRIPE_BYTES);
        let mut units = self.intake.in_flight.lock();
        let mut fetches = Vec::new();
        for hole in self.holes(&units, &space, wanted, |_| stripes.clone()) {
            let pieces = cut(hole, 0);
            let begun = pieces
                .map(|piece| inflight::begin(&mut units, &space, piece, Fate::Kept, true))
                .collect();
            fetches.push(self.fetch(announced, extent, &source, begun, true));
        }
        drop(units);
        let begun = fetches.iter().flat_map(|fetch| fetch.units.iter().cloned()).collect();
        for fetch in fetches {
            self.runtime.spawn(fetch.run());
        }
        begun
    }

    fn fetch(
        &self,
        announced: &Announced,
        extent: &Extent,
        source: &Source,
        units: VecDeque<Arc<Unit>>,
        is_ahead: bool,
    ) -> Fetch {
        Fetch {
            intake: self.intake.clone(),
            revision: announced.id,
            space: announced.package.space(),
            extent: extent.clone(),
            source: source.clone(),
            is_ahead,
            units,
        }
    }
}

/// The part of an extent that a read needs.
fn needed(extent: &Extent, range: BlockRange) -> Range<u64> {
    let end = extent.address + round_up_to_block(extent.bytes);
    range.address().max(extent.address)..range.end().min(end)
}

/// A run of blocks in pieces that each lie within a page of the space. One ends at `needed_until`, so that a reader does not
/// wait for what only comes along.
fn cut(run: Range<u64>, needed_until: u64) -> impl Iterator<Item = Range<u64>> {
    const { assert!(STRIPE_BYTES.is_multiple_of(UNIT_BYTES_MAX)) };
    let mut at = run.start;
    std::iter::from_fn(move || {
        let border = (at / UNIT_BYTES_MAX + 1) * UNIT_BYTES_MAX;
        let until = if (at + 1..border).contains(&needed_until) {
            needed_until
        } else {
            border
        };
        let piece = at..run.end.min(until);
        at = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}
