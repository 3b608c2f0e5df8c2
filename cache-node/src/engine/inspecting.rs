//! What a person wants to know of what is cached: how much, of what, where, and why something is not. It looks and does not fetch,
//! and no policy takes it for a read. All of it may wait for the disk.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use penstock_buffer::BufferPool;
use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_protocol::side::BLOCKS;

use super::found::Found;
use super::{Announced, Engine, InspectError};
use crate::inflight::{Fate, overlapping, uncovered};
pub use crate::keeping::Hold;
use crate::limits::{RANGES_EXPLAINED_MAX, STRIPES_EXPLAINED_MAX, UNIT_BYTES_MAX};
use crate::rules::{Quota, Rule};
use crate::tiers::{Damage, Place};
use crate::unread::key_shown;

/// What an engine holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// By name.
    pub datasets: Vec<HeldDataset>,
    /// Bytes of spaces of no Dataset that it was told of.
    pub other_bytes: u64,
}

/// A Dataset, and what is held of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldDataset {
    /// Namespace and name.
    pub name: String,
    /// The newest revision that is here.
    pub revision: Option<RevisionId>,
    /// How many are here.
    pub revisions: usize,
    /// Files of the newest.
    pub files: u64,
    /// Sum of their lengths.
    pub bytes: u64,
    /// Bytes of all revisions together, by the number of the tier.
    pub cached_bytes: Vec<u64>,
    /// Bytes of them that are pinned.
    pub pinned_bytes: u64,
    /// What it has of this node.
    pub quota: Quota,
}

/// How much of a path is cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stated {
    /// The revision that was looked at.
    pub revision: RevisionId,
    /// Or it is a file.
    pub is_folder: bool,
    /// Files of it.
    pub files: u64,
    /// Sum of their lengths.
    pub bytes: u64,
    /// Bytes of their blocks.
    pub block_bytes: u64,
    /// Bytes of these that are cached, by the number of the tier.
    pub cached_bytes: Vec<u64>,
}

/// Where the parts of a file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The revision that was looked at.
    pub revision: RevisionId,
    /// Length of the file.
    pub bytes: u64,
    /// Identity of its source, and its key there; `None` if it is empty.
    pub object: Option<(String, String)>,
    /// Whether the origin was seen to have another version.
    pub has_drifted: bool,
    /// The rule that counts, as far as it can be done. An empty file needs none.
    pub rule: Rule,
    /// One behind the other.
    pub ranges: Vec<ExplainedRange>,
    /// Where to go on.
    pub next_offset: Option<u64>,
}

/// A part of a file of which the same is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedRange {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
    /// The node that readers ask first.
    pub owner: Option<String>,
    /// Where it is.
    pub place: Where,
}

/// Where something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Where {
    /// It is cached.
    Cached {
        /// Name of the tier.
        tier: String,
        /// For how long.
        hold: Hold,
    },
    /// It is on its way.
    Coming {
        /// And is kept then.
        is_kept: bool,
    },
    /// It is not here.
    Missing(Reason),
}

/// Why something is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It belongs to another node.
    Others,
    /// No tier takes data.
    NoTier,
    /// Its source is not known.
    NoSource,
    /// Nobody read it here, or it is gone since: what is gone is not remembered. There is room for it.
    Unread,
    /// The same, but there is no room for it unless something else goes.
    Contested,
}

/// What was found where blocks were compared with their checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// All that is cached; 0 if only a part of it is compared.
    pub total_bytes: u64,
    /// What was compared.
    pub compared_bytes: u64,
    /// Blocks that did not match, or could not be read.
    pub damaged_blocks: u64,
    /// What is gone with them.
    pub evicted_bytes: u64,
}

impl Verified {
    fn add(&mut self, compared_bytes: u64, damage: Damage) {
        self.compared_bytes += compared_bytes;
        self.damaged_blocks += damage.blocks;
        self.evicted_bytes += damage.evicted_bytes;
    }
}

impl Engine {
    /// What it holds.
    pub fn holdings(&self) -> Holdings {
        let tiers = &self.0.intake.tiers;
        let mut cached = tiers.spaces_by_tier();
        let named = self.0.named.read().unwrap_or_else(PoisonError::into_inner).clone();
        let held = |(name, ids): (String, Vec<RevisionId>)| {
            let revisions: Vec<Arc<Announced>> = ids.iter().filter_map(|id| self.0.announced(id)).collect();
            let spaces: BTreeSet<SpaceId> = revisions.iter().map(|revision| revision.package.space()).collect();
            let newest = revisions.first().map(|revision| &revision.package);
            let promises = spaces.iter().map(|space| tiers.promises(space).1);
            let of_tier = |of_spaces: &mut HashMap<SpaceId, u64>| {
                let taken = spaces.iter().filter_map(|space| of_spaces.remove(space));
                taken.sum::<u64>()
            };
            HeldDataset {
                name,
                revision: newest.map(|package| package.id()),
                revisions: revisions.len(),
                files: newest.map_or(0, |package| package.summary().files),
                bytes: newest.map_or(0, |package| package.summary().bytes),
                cached_bytes: cached.iter_mut().map(of_tier).collect(),
                pinned_bytes: promises.sum(),
                quota: newest.map_or_else(Quota::default, |package| tiers.promises(&package.space()).0),
            }
        };
        let mut datasets: Vec<HeldDataset> = named.into_iter().map(held).collect();
        datasets.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let other_bytes = cached.iter().flat_map(|of_spaces| of_spaces.values()).sum();
        Holdings { datasets, other_bytes }
    }

    /// How much is cached of a file, or of what is below a folder. `goes_on` is asked now and then.
    ///
    /// # Errors
    /// See [`InspectError`].
    pub fn stat(&self, dataset: &str, path: &str, goes_on: &dyn Fn() -> bool) -> Result<Stated, InspectError> {
        let (announced, found) = self.find(dataset, path)?;
        let (tiers, space) = (&self.0.intake.tiers, announced.package.space());
        let mut cached_bytes = vec![0; tiers.count()];
        for ranges in found.stripes().iter().take_while(|_| goes_on()) {
            for place in self.places_of(&space, ranges) {
                cached_bytes[place.tier] += place.addresses.end - place.addresses.start;
            }
        }
        Ok(Stated {
            revision: announced.id,
            is_folder: found.is_folder,
            files: found.files,
            bytes: found.bytes,
            block_bytes: found.block_bytes(),
            cached_bytes,
        })
    }

    /// Where the parts of a file are from an offset on, or why they are not here; a bounded number of them. `owner` says who has a
    /// stripe.
    ///
    /// # Errors
    /// See [`InspectError`].
    pub fn explain(
        &self,
        dataset: &str,
        path: &str,
        offset: u64,
        owner: impl Fn(&SpaceId, u64) -> Option<String>,
    ) -> Result<Explained, InspectError> {
        let (announced, found) = self.find(dataset, path)?;
        if found.is_folder {
            return Err(InspectError::Folder(path.to_owned()));
        }
        let (space, start) = (announced.package.space(), found.address().unwrap_or(0));
        let extents = BlockRange::covering(start, found.bytes.min(1)).next();
        let extents = extents.map_or(Ok(Vec::new()), |first| announced.package.extents(first));
        let extents = extents
            .inspect_err(|_| self.seek_again(&announced))
            .map_err(|error| InspectError::DamagedPackage(announced.id, error.to_string()))?;
        let extent = extents.first();
        let has_source = extent.is_some_and(|extent| announced.source_of(extent).is_some());
        let object = extent.map(|extent| {
            let source = announced.package.sources().get(usize::from(extent.object.source));
            (source.cloned().unwrap_or_default(), extent.object.key.clone())
        });
        let drifts = self.0.intake.drifts();
        let mut explained = Explained {
            revision: announced.id,
            bytes: found.bytes,
            has_drifted: object.as_ref().is_some_and(|(_, key)| {
                let key = key_shown(key);
                let mut drifts = drifts.iter();
                drifts.any(|drift| drift.revision == announced.id && drift.key == key && drift.fault.is_empty())
            }),
            object,
            rule: match found.address() {
                Some(address) => self.0.intake.tiers.rule_of(&space, address),
                None => Rule::default(),
            },
            ranges: Vec::new(),
            next_offset: None,
        };
        let offset = offset.min(found.bytes);
        let ranges = BlockRange::covering(start + offset, found.bytes - offset);
        for range in ranges.take(STRIPES_EXPLAINED_MAX) {
            let owner = owner(&space, range.stripe());
            for (part, place) in self.explain_range(&space, range, has_source) {
                explained.push(start, part, owner.clone(), place);
            }
            if explained.ranges.len() > RANGES_EXPLAINED_MAX {
                break;
            }
        }
        explained.end();
        Ok(explained)
    }

    /// Makes missing what is cached of a file, or of what is below a folder; returns the revision, the bytes, and how many of them
    /// were pinned. As [`Engine::stat`].
    ///
    /// # Errors
    /// See [`InspectError`].
    pub fn evict(
        &self,
        dataset: &str,
        path: &str,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<(RevisionId, u64, u64), InspectError> {
        let (announced, found) = self.find(dataset, path)?;
        let (tiers, space) = (&self.0.intake.tiers, announced.package.space());
        let (mut evicted, mut pinned) = (0, 0);
        for ranges in found.stripes().iter().take_while(|_| goes_on()) {
            tiers.with_open((space, ranges[0].stripe()), || {
                for range in ranges {
                    let (bytes, of_them) = tiers.evict_range(&space, *range);
                    evicted += bytes;
                    pinned += of_them;
                }
            });
        }
        Ok((announced.id, evicted, pinned))
    }

    /// Compares with its checksums what is cached of a path of a Dataset, or all; what does not match goes. `tell` hears how far it
    /// is, and says whether to go on.
    ///
    /// # Errors
    /// See [`InspectError`].
    pub fn verify(
        &self,
        of: Option<(&str, &str)>,
        mut tell: impl FnMut(&Verified) -> bool,
    ) -> Result<Verified, InspectError> {
        let tiers = &self.0.intake.tiers;
        let mut buffer = BufferPool::new(UNIT_BYTES_MAX as usize, 1).take();
        let mut verified = Verified::default();
        let mut add = |verified: &mut Verified, bytes, damage| {
            verified.add(bytes, damage);
            tell(verified)
        };
        let Some((dataset, path)) = of else {
            verified.total_bytes = tiers.used();
            for key in tiers.stripe_keys() {
                if !tiers.verify(key, 0..BLOCKS, &mut buffer, |bytes, damage| {
                    add(&mut verified, bytes, damage)
                }) {
                    break;
                }
            }
            return Ok(verified);
        };
        let (announced, found) = self.find(dataset, path)?;
        for ranges in found.stripes() {
            let key = (announced.package.space(), ranges[0].stripe());
            let goes_on = tiers.with_open(key, || {
                ranges.iter().all(|range| {
                    let blocks = range.blocks_in_stripe();
                    tiers.verify(key, blocks, &mut buffer, |bytes, damage| {
                        add(&mut verified, bytes, damage)
                    })
                })
            });
            if !goes_on {
                break;
            }
        }
        Ok(verified)
    }

    /// A path of the newest revision of a Dataset.
    fn find(&self, dataset: &str, path: &str) -> Result<(Arc<Announced>, Found), InspectError> {
        let announced = self.newest(dataset)?;
        let found = Found::at(dataset, &announced.package, path, &self.0.scratch);
        let found = found.inspect_err(|_| self.seek_again(&announced))?;
        Ok((announced, found))
    }

    /// The newest revision of a Dataset.
    pub(super) fn newest(&self, dataset: &str) -> Result<Arc<Announced>, InspectError> {
        let named = self.0.named.read().unwrap_or_else(PoisonError::into_inner);
        let known = named.iter().find(|(name, _)| name == dataset);
        let (_, ids) = known.ok_or_else(|| InspectError::UnknownDataset(dataset.to_owned()))?;
        let newest = ids.first().copied();
        drop(named);
        let announced = newest.and_then(|id| self.0.announced(&id));
        let announced = announced.ok_or_else(|| InspectError::NotHere(dataset.to_owned()))?;
        Ok(announced)
    }

    /// Has a package that cannot be read looked for elsewhere.
    pub(super) fn seek_again(&self, announced: &Announced) {
        if announced.package.has_failed() {
            self.0.package_failed.notify_one();
        }
    }

    /// What is stored of ranges of one stripe.
    fn places_of(&self, space: &SpaceId, ranges: &[BlockRange]) -> Vec<Place> {
        let tiers = &self.0.intake.tiers;
        tiers.with_open((*space, ranges[0].stripe()), || {
            ranges.iter().flat_map(|range| tiers.places(space, *range)).collect()
        })
    }

    /// Where the parts of a range are, sorted.
    fn explain_range(&self, space: &SpaceId, range: BlockRange, has_source: bool) -> Vec<(Range<u64>, Where)> {
        let (wanted, names) = (range.address()..range.end(), self.0.intake.tiers.names());
        // Asked first: a unit is stored before it leaves the map.
        let coming = overlapping(&self.0.intake.in_flight.lock(), space, &wanted);
        let cached = self.places_of(space, &[range]).into_iter().map(|place| {
            let tier = names[place.tier].clone();
            let hold = place.hold;
            (place.addresses, Where::Cached { tier, hold })
        });
        let mut parts: Vec<(Range<u64>, Where)> = cached.collect();
        let taken = |parts: &[(Range<u64>, Where)]| -> Vec<Range<u64>> {
            let mut taken: Vec<_> = parts.iter().map(|(part, _)| part.clone()).collect();
            taken.sort_unstable_by_key(|part| part.start);
            taken
        };
        let stored = taken(&parts);
        for unit in coming {
            let part = unit.range.start.max(wanted.start)..unit.range.end.min(wanted.end);
            let is_kept = unit.fate == Fate::Kept;
            let left = uncovered(part, stored.iter().cloned());
            parts.extend(left.into_iter().map(|part| (part, Where::Coming { is_kept })));
        }
        for part in uncovered(wanted, taken(&parts)) {
            let reason = self.reason(space, range.stripe(), &part, has_source);
            parts.push((part, Where::Missing(reason)));
        }
        parts.sort_unstable_by_key(|(part, _)| part.start);
        parts
    }

    fn reason(&self, space: &SpaceId, stripe: u64, part: &Range<u64>, has_source: bool) -> Reason {
        let tiers = &self.0.intake.tiers;
        // What is fetched and kept as one.
        let unit_bytes = (part.end - part.start).min(UNIT_BYTES_MAX);
        if !self.0.owns(space, stripe) {
            Reason::Others
        } else if !tiers.any_takes() {
            Reason::NoTier
        } else if !has_source {
            Reason::NoSource
        } else if tiers.has_room(space, part.start, unit_bytes) {
            Reason::Unread
        } else {
            Reason::Contested
        }
    }
}

impl Explained {
    /// Adds a part that begins where the one before ended, as addresses of a file that begins at `start`.
    fn push(&mut self, start: u64, part: Range<u64>, owner: Option<String>, place: Where) {
        let (offset, bytes) = (part.start - start, part.end - part.start);
        match self.ranges.last_mut() {
            Some(last) if last.owner == owner && last.place == place => last.bytes += bytes,
            _ => self.ranges.push(ExplainedRange {
                offset,
                bytes,
                owner,
                place,
            }),
        }
    }

    /// Lets go of what is too much, and of what the last block has behind the end of the file.
    fn end(&mut self) {
        self.ranges.truncate(RANGES_EXPLAINED_MAX);
        if let Some(last) = self.ranges.last_mut() {
            let end = last.offset + last.bytes;
            self.next_offset = (end < self.bytes).then_some(end);
            last.bytes = end.min(self.bytes) - last.offset;
        }
    }
}

#[cfg(test)]
mod tests {
    use penstock_protocol::geometry::BLOCK_BYTES;

    use super::*;

    #[test]
    fn what_is_explained_is_whole_parts_up_to_a_bound_and_says_where_to_go_on() {
        let bytes = (RANGES_EXPLAINED_MAX as u64 + 2) * BLOCK_BYTES - 1;
        let mut explained = Explained {
            revision: RevisionId([0; 32]),
            bytes,
            object: None,
            has_drifted: false,
            rule: Rule::default(),
            ranges: Vec::new(),
            next_offset: None,
        };
        let blocks = (RANGES_EXPLAINED_MAX + 2) as u64;
        for block in 0..blocks {
            let start = 7 * BLOCK_BYTES;
            let part = start + block * BLOCK_BYTES..start + (block + 1) * BLOCK_BYTES;
            let is_kept = block % 2 == 0;
            explained.push(start, part, None, Where::Coming { is_kept });
        }
        let mut few = explained.clone();
        explained.end();
        assert_eq!(explained.ranges.len(), RANGES_EXPLAINED_MAX);
        assert_eq!(explained.next_offset, Some(RANGES_EXPLAINED_MAX as u64 * BLOCK_BYTES));
        few.ranges.drain(..3);
        few.end();
        let last = few.ranges.last().unwrap();
        assert_eq!((last.offset + last.bytes, few.next_offset), (bytes, None));
    }
}
