//! Who gives next, and how much each may hold: pure.
//!
//! In this order gives: who is over the limit of its Dataset; who is not below what its Dataset is guaranteed; who has the lower
//! priority; who is not read; whose Dataset holds most. So Datasets that are alike get the same, whatever rules they have.

use std::cmp::{Ordering, Reverse};

use crate::rules::Quota;

/// A share as it stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// The number of its Dataset.
    pub(super) dataset: usize,
    pub(super) priority: u32,
    /// Bytes that can go.
    pub(super) held: u64,
    /// Bytes that cannot.
    pub(super) pinned: u64,
    /// Bytes that only pass.
    pub(super) passing: u64,
    pub(super) is_idle: bool,
}

/// All shares.
#[derive(Clone, Debug, Default)]
pub(super) struct Standings {
    shares: Vec<Standing>,
    datasets: Vec<Account>,
}

/// A Dataset as it stands.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    quota: Quota,
    /// Bytes of all of its shares, pinned or not.
    held: u64,
    /// Bytes that only pass.
    passing: u64,
}

impl Standings {
    /// Of shares, and the quota of each Dataset.
    pub(super) fn of(shares: Vec<Standing>, quotas: impl IntoIterator<Item = Quota>) -> Self {
        let account = |quota| Account {
            quota,
            held: 0,
            passing: 0,
        };
        let mut datasets: Vec<Account> = quotas.into_iter().map(account).collect();
        for share in &shares {
            datasets[share.dataset].held += share.held + share.pinned;
            datasets[share.dataset].passing += share.passing;
        }
        Self { shares, datasets }
    }

    /// The share that gives because its Dataset holds more than it may.
    pub(super) fn over_limit(&self) -> Option<usize> {
        let is_over = |share: &&Standing| {
            let Account { quota, held, .. } = self.datasets[share.dataset];
            quota.limit_bytes.is_some_and(|limit| held > limit)
        };
        let shares = self.shares.iter().enumerate();
        let over = shares.filter(|(_, share)| share.held > 0 && is_over(share));
        over.min_by_key(|(_, share)| (share.priority, Reverse(share.held)))
            .map(|(at, _)| at)
    }

    /// The share that gives what only passes because its Dataset has more than it may, and than so many bytes that may pass.
    pub(super) fn over_limit_passing(&self, passing_max: u64) -> Option<usize> {
        let is_over = |share: &&Standing| {
            let Account { quota, held, passing } = self.datasets[share.dataset];
            let limit = quota.limit_bytes.map(|limit| limit.saturating_add(passing_max));
            limit.is_some_and(|limit| held + passing > limit)
        };
        let shares = self.shares.iter().enumerate();
        let over = shares.filter(|(_, share)| share.passing > 0 && is_over(share));
        over.max_by_key(|(_, share)| share.passing).map(|(at, _)| at)
    }

    /// The shares that have something to give, in the order in which they give when there is not enough for all.
    pub(super) fn givers(&self) -> Vec<usize> {
        let mut givers: Vec<usize> = (0..self.shares.len()).filter(|at| self.shares[*at].held > 0).collect();
        givers.sort_by_cached_key(|at| {
            let share = &self.shares[*at];
            let Account { quota, held, .. } = self.datasets[share.dataset];
            let is_guaranteed = held <= quota.guaranteed_bytes;
            (
                is_guaranteed,
                share.priority,
                !share.is_idle,
                Reverse(held),
                Reverse(share.held),
            )
        });
        givers
    }

    /// What one may hold of `room`, when every other has no more than is fair: Datasets share with each other, and the rules of
    /// one among themselves.
    pub(super) fn room_of(&self, at: usize, room: u64) -> u64 {
        let share = &self.shares[at];
        let pinned: u64 = self.shares.iter().map(|share| share.pinned).sum();
        let mut room = room.saturating_sub(pinned);
        let (mut alike, mut siblings) = (Vec::new(), Vec::new());
        for dataset in 0..self.datasets.len() {
            let others = || {
                let of_it = self.shares.iter().enumerate();
                let others = of_it.filter(|(other, of)| *other != at && of.dataset == dataset);
                others.map(|(_, other)| other).filter(|other| !other.is_idle)
            };
            let of = |order: Ordering| others().filter(move |other| other.priority.cmp(&share.priority) == order);
            let (higher, same): (u64, u64) = (
                of(Ordering::Greater).map(|other| other.held).sum(),
                of(Ordering::Equal).map(|other| other.held).sum(),
            );
            if dataset == share.dataset {
                room = room.saturating_sub(higher);
                siblings = of(Ordering::Equal).map(|other| other.held).collect();
                continue;
            }
            // What it keeps in any case: what is above counts towards it.
            let Account { quota, held, .. } = self.datasets[dataset];
            let guaranteed = quota.guaranteed_bytes.min(held);
            room = room.saturating_sub(higher.max(guaranteed.saturating_sub(same)));
            alike.push(same);
        }
        let Account { quota, held, .. } = self.datasets[share.dataset];
        let others_of_it = held - share.held;
        fair_room(fair_room(room, alike), siblings)
            .max(quota.guaranteed_bytes.saturating_sub(others_of_it))
            .min(quota.limit_bytes.unwrap_or(u64::MAX).saturating_sub(others_of_it))
    }
}

/// What one may hold of `room`: as much as all that want more, and what they leave.
fn fair_room(room: u64, mut others: Vec<u64>) -> u64 {
    others.sort_unstable();
    let (mut left, mut count) = (room, others.len() as u64 + 1);
    for bytes in others {
        if bytes >= left / count {
            break;
        }
        left -= bytes;
        count -= 1;
    }
    left / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_the_room_is_shared_by_those_that_want_more() {
        for (others, fair) in [
            (vec![], 900),
            (vec![100], 800),
            (vec![600], 450),
            (vec![100, 900], 400),
            (vec![300, 300], 300),
            (vec![900, 900], 300),
            (vec![0, 0, 10], 890),
        ] {
            assert_eq!(fair_room(900, others.clone()), fair, "{others:?}");
        }
    }

    /// Shares of Datasets of their own: priority, bytes, whether they are idle.
    fn shares(shares: &[(u32, u64, bool)]) -> Vec<Standing> {
        let share = |(dataset, (priority, held, is_idle)): (usize, &(u32, u64, bool))| Standing {
            dataset,
            priority: *priority,
            held: *held,
            pinned: 0,
            passing: 0,
            is_idle: *is_idle,
        };
        shares.iter().enumerate().map(share).collect()
    }

    fn without_quotas(shares: Vec<Standing>) -> Standings {
        let quotas = vec![Quota::default(); shares.len()];
        Standings::of(shares, quotas)
    }

    #[test]
    fn lower_priority_gives_before_idle_and_idle_before_the_richest() {
        for (of, giver) in [
            (vec![(50, 10, false), (50, 20, false)], Some(1)),
            (vec![(50, 10, true), (50, 20, false)], Some(0)),
            (vec![(60, 90, true), (50, 20, false)], Some(1)),
            (vec![(50, 0, false), (60, 20, false)], Some(1)),
            (vec![(50, 0, false)], None),
        ] {
            let standings = without_quotas(shares(&of));
            assert_eq!(standings.givers().first().copied(), giver, "{of:?}");
        }
    }

    #[test]
    fn a_dataset_keeps_its_guarantee_and_gives_what_is_over_its_limit() {
        let quota = |guaranteed_bytes, limit_bytes| Quota {
            guaranteed_bytes,
            limit_bytes,
        };
        let mut two = shares(&[(10, 100, true), (90, 50, false)]);
        let all = Standings::of(two.clone(), [quota(100, None), quota(0, None)]);
        assert_eq!(all.givers()[0], 1, "the other is not above its guarantee");
        assert_eq!(all.over_limit(), None);
        assert_eq!(all.room_of(1, 1000), 900);
        assert_eq!(all.room_of(0, 120), 100, "whatever others hold");
        let all = Standings::of(two.clone(), [quota(99, None), quota(0, Some(49))]);
        assert_eq!((all.givers()[0], all.over_limit()), (0, Some(1)));
        assert_eq!(all.room_of(1, 1000), 49);
        assert_eq!(all.over_limit_passing(0), None, "nothing passes");
        two[1].passing = 8;
        let passing = Standings::of(two.clone(), [quota(0, None), quota(0, Some(50))]);
        assert_eq!(
            (passing.over_limit_passing(8), passing.over_limit_passing(7)),
            (None, Some(1))
        );
        two[1].pinned = 9;
        let all = Standings::of(two, [quota(0, None), quota(0, Some(49))]);
        assert_eq!(all.room_of(1, 1000), 40);
    }

    #[test]
    fn higher_priority_takes_what_it_wants_from_lower() {
        let all = without_quotas(shares(&[(50, 300, false), (60, 600, false), (50, 400, false)]));
        assert_eq!(all.room_of(1, 1000), 1000);
        assert_eq!(all.room_of(0, 1000), 200, "as much as the other of its priority");
    }

    #[test]
    fn a_dataset_with_many_rules_gets_no_more_than_one_with_none() {
        let mut many = shares(&[(50, 100, false), (50, 100, false), (50, 250, false), (50, 300, false)]);
        many[1].dataset = 0;
        many[2].dataset = 0;
        many[3].dataset = 1;
        let quota = Quota {
            guaranteed_bytes: 150,
            limit_bytes: None,
        };
        let all = Standings::of(many.clone(), [Quota::default(), Quota::default()]);
        assert_eq!(
            all.givers(),
            [2, 0, 1, 3],
            "the Dataset that holds most, and of it the share"
        );
        assert_eq!(all.room_of(3, 600), 300);
        assert_eq!(
            all.room_of(2, 600),
            100,
            "half of the room, but for what its others hold"
        );
        // A guarantee counts once, whatever it is made of.
        many[3].priority = 90;
        let all = Standings::of(many, [quota, Quota::default()]);
        assert_eq!(all.room_of(3, 1000), 850);
    }
}
