//! Two small caches of a sample of the keys, one for each of the rules, that show which of them suits the traffic. It must
//! not know what the cache itself holds or does.
//!
//! A sample of the keys, chosen by their hash, has the same hit ratio in a cache that is smaller by the same factor
//! (Waldspurger and others, "Efficient MRC construction with SHARDS", FAST 2015). Both caches see the same keys, so what is
//! particular about a sample is in both, and their difference is more exact than either ratio.
//!
//! A read that one of them has and the other has not is a point. Points are summed up as in Page's test for a change (CUSUM,
//! 1954): an allowance is taken off at every read, the sum never falls below zero, and the rules change when it reaches what
//! is needed, at once when the difference is large and later when it is small. Points are summed up twice, by units and by bytes:
//! one of the rules may happen to have many small units and the other as many bytes in few, and then neither suits better.
//!
//! Holding begins with what is there, so the small cache that holds then takes over what the other one has. Otherwise it would
//! show what had been held for long, and the cache holds something else. S3-FIFO has replaced what it began with soon enough.

use crate::Policy;
use crate::content::Content;
use crate::ghost::Ghost;
use crate::hash::hashed;
use crate::hold::Hold;
use crate::s3_fifo::S3Fifo;

/// Units that one of the small caches may hold before the sample is halved: both together take 400 KB then. With fewer a
/// change is seen later, measured in parts of the cache.
const UNITS_MAX: u32 = 8192;

/// Most times that the sample is halved; then it is of two thousand million units.
const HALVINGS_MAX: u32 = 18;

/// What a point counts by units; allowances are smaller.
const POINT: u64 = 1024;

/// Allowances and needs of the two leads: a difference of a sixteenth shows after 32 points, one of a 128th after 512. With
/// allowance a, need n and variance v of a read's points a lead is there by chance once in exp(2 a n / v) times; v is 0.5 at
/// the very most, where nothing is gained or lost by a change, and below 0.1 as a rule.
const QUICK: Lead = Lead::new(16, 32);
const SURE: Lead = Lead::new(128, 512);

/// To leave off holding a quarter of both must be points of units that were read soon before.
const SOON_QUICK: Lead = Lead::new(64, 8);
const SOON_SURE: Lead = Lead::new(512, 128);

/// Units that were read within one to two of these parts of the capacity were read soon before.
const SOON_PART: u64 = 4;

/// Points that count of a run, reads of which all are held or none is: a scan of some records is one event and not a hundred.
const RUN_POINTS_MAX: u32 = 8;

/// Points by which holding is ahead, as a part of all units, that suffice even if they came in one run.
const RUNS_PART: u32 = 4;

/// More than can be needed: the sample has fewer units.
const POINTS_MAX: u64 = 4 * UNITS_MAX as u64;

/// The least that any number of points must be, whatever they are compared with.
const POINTS_MIN: u32 = 64;

/// Rules by which the cache can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Keep what is there.
    Hold,
    /// S3-FIFO.
    S3Fifo,
}

/// The trial.
#[derive(Debug)]
pub(crate) struct Trial {
    hold: Hold,
    s3_fifo: S3Fifo,
    capacity: u64,
    /// One key of 2^halvings is in the sample.
    halvings: u32,
    /// What was read soon before.
    recent: Ghost,
    better: Rules,
    leads: Leads,
}

impl Trial {
    pub(crate) fn new(capacity: u64) -> Self {
        Self {
            hold: Hold::new(capacity),
            s3_fifo: S3Fifo::new(capacity),
            capacity,
            halvings: 0,
            recent: Ghost::default(),
            // Until something is known of the traffic: what is there may have been paid for by an epoch before a restart.
            better: Rules::Hold,
            leads: Leads::default(),
        }
    }

    /// The rules that suit the traffic better, as far as is known.
    pub(crate) fn better(&self) -> Rules {
        self.better
    }

    /// Tries a read out.
    pub(crate) fn read(&mut self, key: u64, bytes: u32) {
        if !self.takes(key) {
            return;
        }
        let held = self.hold.content.shelves.find(key).is_some();
        let kept = self.s3_fifo.content.shelves.find(key).is_some();
        let soon = self.recent.knows(key);
        let capacity = self.capacity >> self.halvings;
        let units = self.s3_fifo.content.shelves.units();
        let expected = u64::from(units) / SOON_PART;
        self.recent.remember(key, bytes, capacity / SOON_PART, expected);
        let average_bytes = (self.s3_fifo.content.shelves.bytes() / u64::from(units.max(1))).max(1);
        let read = Read { bytes, average_bytes };
        let point = i64::from(kept) - i64::from(held);
        let changes = match self.better {
            Rules::Hold => self.leads.end_holding(point, read, soon, units),
            Rules::S3Fifo => self.leads.begin_holding(-point, read, held, units),
        };
        run(&mut self.hold, key, bytes, held);
        run(&mut self.s3_fifo, key, bytes, kept);
        if changes {
            self.change(read, units);
        }
        self.fit();
    }

    /// A unit is in the cache. What was read is known here; what comes unread was found on disk after a restart.
    pub(crate) fn inserted(&mut self, key: u64, bytes: u32) {
        let holds = |content: &Content| content.shelves.find(key).is_some();
        if self.takes(key) && !holds(&self.hold.content) && !holds(&self.s3_fifo.content) {
            self.hold.inserted(key, bytes);
            self.s3_fifo.inserted(key, bytes);
            self.fit();
        }
    }

    pub(crate) fn resize(&mut self, capacity: u64) {
        let units = u128::from(self.s3_fifo.content.shelves.units());
        let mut expected = units * u128::from(capacity) / u128::from(self.capacity.max(1));
        self.capacity = capacity;
        // A small cache that is nearly empty tells nothing.
        while self.halvings > 0 && expected < u128::from(UNITS_MAX) / 4 {
            self.halvings -= 1;
            expected *= 2;
        }
        self.fit();
    }

    fn change(&mut self, read: Read, units: u32) {
        match self.better {
            Rules::Hold => {
                self.leads = Leads::default();
                self.better = Rules::S3Fifo;
            }
            Rules::S3Fifo => {
                self.hold.content = self.s3_fifo.content.clone();
                self.leads = Leads::of_holding(&self.leads, read, units);
                self.better = Rules::Hold;
            }
        }
    }

    fn takes(&self, key: u64) -> bool {
        // Other bits than those of which index, ghost and rounds make use, so that they see the sample as any other keys.
        let bits = hashed(key).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        bits & ((1 << self.halvings) - 1) == 0
    }

    /// Halves the sample when it is too large, and evicts what is over the small capacity.
    fn fit(&mut self) {
        let units = self
            .hold
            .content
            .shelves
            .units()
            .max(self.s3_fifo.content.shelves.units());
        if units > UNITS_MAX && self.halvings < HALVINGS_MAX {
            self.halvings += 1;
            let hold = self.hold.content.shelves.keys().filter(|key| !self.takes(*key));
            let s3_fifo = self.s3_fifo.content.shelves.keys().filter(|key| !self.takes(*key));
            let (hold, s3_fifo): (Vec<u64>, Vec<u64>) = (hold.collect(), s3_fifo.collect());
            hold.into_iter().for_each(|key| self.hold.removed(key));
            s3_fifo.into_iter().for_each(|key| self.s3_fifo.removed(key));
        }
        let capacity = self.capacity >> self.halvings;
        self.hold.resize(capacity);
        self.s3_fifo.resize(capacity);
        while self.hold.content.shelves.bytes() > capacity && evict(&mut self.hold) {}
        while self.s3_fifo.content.shelves.bytes() > capacity && evict(&mut self.s3_fifo) {}
    }
}

fn run(policy: &mut impl Policy, key: u64, bytes: u32, is_there: bool) {
    if policy.read(key, bytes) && !is_there {
        policy.inserted(key, bytes);
    }
}

fn evict(policy: &mut impl Policy) -> bool {
    let victim = policy.victim();
    victim.into_iter().for_each(|victim| policy.removed(victim));
    victim.is_some()
}

/// What a read counts by bytes.
#[derive(Clone, Copy, Debug)]
struct Read {
    /// Of its unit.
    bytes: u32,
    /// Of the units that are held, on average.
    average_bytes: u64,
}

/// Sums of points, by units and by bytes, less an allowance for each read, that are not below zero.
#[derive(Clone, Copy, Debug)]
struct Lead {
    reads_per_point: u64,
    points_needed: u64,
    by_units: u64,
    by_bytes: u64,
}

impl Lead {
    const fn new(reads_per_point: u64, points_needed: u64) -> Self {
        Self {
            reads_per_point,
            points_needed,
            by_units: 0,
            by_bytes: 0,
        }
    }

    fn count(&mut self, point: i64, read: Read) {
        let counted = |sum: u64, weight: u64| {
            let sum = sum.saturating_add_signed(point * weight as i64);
            sum.saturating_sub(weight / self.reads_per_point)
        };
        self.by_units = counted(self.by_units, POINT).min(self.points_needed * POINT);
        self.by_bytes = counted(self.by_bytes, u64::from(read.bytes)).min(self.points_needed * read.average_bytes);
    }

    fn suffices(&self, read: Read) -> bool {
        self.has(self.points_needed, read)
    }

    /// Whether it is so many points, by units and by bytes.
    fn has(&self, points: u64, read: Read) -> bool {
        self.by_units >= points * POINT && self.by_bytes >= points * read.average_bytes
    }
}

/// By how much the rules that are not in force are ahead.
#[derive(Debug)]
struct Leads {
    quick: Lead,
    sure: Lead,
    /// By the points of units that were read soon before.
    soon_quick: Lead,
    soon_sure: Lead,
    /// By all points; what it needs is said when it is asked.
    whole: Lead,
    /// Whether the last reads were all held or all not, and how many points they were.
    run: (bool, u32),
    /// By what holding was ahead when it began, as far as that is neither made up for nor long ago.
    credit: u64,
}

impl Default for Leads {
    fn default() -> Self {
        Self {
            quick: QUICK,
            sure: SURE,
            soon_quick: SOON_QUICK,
            soon_sure: SOON_SURE,
            whole: Lead::new(64, POINTS_MAX),
            run: (false, 0),
            credit: 0,
        }
    }
}

impl Leads {
    /// When holding of so many units begins, with the leads that it had: by units and by bytes, and no more than a pass over all that
    /// is held could cost.
    fn of_holding(before: &Leads, read: Read, units: u32) -> Self {
        let by_bytes = before.whole.by_bytes / read.average_bytes.max(1) * POINT;
        Self {
            credit: before
                .whole
                .by_units
                .min(by_bytes)
                .min(u64::from(units.max(POINTS_MIN)) * POINT),
            ..Self::default()
        }
    }

    /// Counts a point for S3-FIFO. True when holding should end.
    ///
    /// A scan of the part that S3-FIFO happens to have gives it a point for each read, until it comes to the part that is
    /// held. So either some of the points must be of units that were read soon before, which no scan of more than the cache
    /// does, or there must be more points than S3-FIFO has units.
    ///
    /// What S3-FIFO had last was just read, so readers in sequence come to all that is not held before they come to what is:
    /// holding begins with a loss, and its credit is for that. It is used up by time too, or old credit would delay the answer
    /// to other traffic.
    fn end_holding(&mut self, point: i64, read: Read, soon: bool, units: u32) -> bool {
        if self.credit > 0 {
            let made_up = POINT * point.max(0).unsigned_abs();
            self.credit = self.credit.saturating_sub(made_up + POINT / QUICK.reads_per_point);
            return false;
        }
        self.quick.count(point, read);
        self.sure.count(point, read);
        self.soon_quick.count(if soon { point } else { 0 }, read);
        self.soon_sure.count(if soon { point } else { 0 }, read);
        self.whole.count(point, read);
        let quick = self.quick.suffices(read) && self.soon_quick.suffices(read);
        let sure = self.sure.suffices(read) && self.soon_sure.suffices(read);
        quick || sure || self.whole.has(u64::from(units.max(POINTS_MIN)), read)
    }

    /// Counts a point for holding. True when it should begin.
    ///
    /// Of a run some points count, as long as they are not a good part of all that is held: short scans are a part of mixed
    /// traffic.
    fn begin_holding(&mut self, point: i64, read: Read, held: bool, units: u32) -> bool {
        self.whole.count(point, read);
        if held != self.run.0 {
            self.run = (held, 0);
        }
        self.run.1 = self.run.1.saturating_add(u32::from(point != 0));
        let point = if self.run.1 > RUN_POINTS_MAX { 0 } else { point };
        self.quick.count(point, read);
        self.sure.count(point, read);
        let enough = u64::from((units / RUNS_PART).max(POINTS_MIN));
        self.quick.suffices(read) || self.sure.suffices(read) || self.whole.has(enough, read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Read = Read {
        bytes: 4096,
        average_bytes: 4096,
    };

    /// The number of the first read at which `count` says that the rules should change.
    fn first(mut count: impl FnMut(u32) -> bool) -> Option<u32> {
        (1..100_000).find(|read| count(*read))
    }

    #[test]
    fn the_larger_a_difference_the_sooner_it_shows() {
        for (one_in, soonest, latest) in [(2, 32, 120), (8, 200, 800), (32, 10_000, 25_000)] {
            let mut leads = Leads::default();
            let read = first(|read| leads.end_holding(i64::from(read % one_in == 0), READ, true, 1 << 13));
            assert!(
                (soonest..latest).contains(&read.unwrap()),
                "{read:?} for one in {one_in}"
            );
        }
        let mut leads = Leads::default();
        let alternating =
            |read: u32| leads.end_holding(if read.is_multiple_of(2) { 1 } else { -1 }, READ, true, 1 << 13);
        assert_eq!(first(alternating), None);
    }

    #[test]
    fn a_scan_of_what_s3_fifo_has_does_not_end_holding_and_more_reads_than_it_has_units_do() {
        let mut leads = Leads::default();
        let read = first(|_| leads.end_holding(1, READ, false, 5000));
        assert!((5000..5200).contains(&read.unwrap()), "{read:?}");
    }

    #[test]
    fn holding_that_has_just_begun_ends_when_its_lead_is_made_up_for_and_later_as_ever() {
        let begun = || {
            let mut before = Leads::default();
            (0..1000).for_each(|_| before.whole.count(1, READ));
            Leads::of_holding(&before, READ, 5000)
        };
        let mut leads = begun();
        let read = first(|_| leads.end_holding(1, READ, true, 5000));
        assert!((900..1000).contains(&read.unwrap()), "{read:?}");
        let mut leads = begun();
        (0..16_000).for_each(|_| assert!(!leads.end_holding(0, READ, false, 5000)));
        let read = first(|_| leads.end_holding(1, READ, true, 5000));
        assert!(read.unwrap() < 40, "{read:?}");
    }

    #[test]
    fn many_small_units_are_no_credit_for_few_bytes() {
        let mut before = Leads::default();
        let small = Read { bytes: 1, ..READ };
        (0..1000).for_each(|_| before.whole.count(1, small));
        let mut leads = Leads::of_holding(&before, READ, 5000);
        let read = first(|_| leads.end_holding(1, READ, true, 5000));
        assert!(read.unwrap() < 40, "{read:?}");
    }

    #[test]
    fn holding_begins_with_what_s3_fifo_has() {
        let keys = |content: &Content| {
            let mut keys: Vec<u64> = content.shelves.keys().collect();
            keys.sort_unstable();
            keys
        };
        let mut trial = Trial::new(100);
        (0..1000).for_each(|read| trial.read(read / 2, 1));
        let kept = keys(&trial.s3_fifo.content);
        assert_ne!(keys(&trial.hold.content), kept);
        trial.better = Rules::S3Fifo;
        trial.change(READ, 100);
        assert_eq!((trial.better(), keys(&trial.hold.content)), (Rules::Hold, kept));
    }

    #[test]
    fn short_scans_are_a_part_of_mixed_traffic_and_do_not_begin_holding() {
        let mut leads = Leads::default();
        let scans = |read: u32| {
            let held = (read / 100).is_multiple_of(2);
            leads.begin_holding(if held { 1 } else { -1 }, READ, held, 5000)
        };
        assert_eq!(first(scans), None);
        let mut leads = Leads::default();
        let read = first(|_| leads.begin_holding(1, READ, true, 5000));
        assert!((1250..1300).contains(&read.unwrap()), "{read:?}");
    }
}
