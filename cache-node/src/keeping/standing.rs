//! Who gives next, and how much each may hold: pure.
//!
//! In this order gives: who is over the limit of its Dataset; who is not below what its Dataset is guaranteed; who has the lower
//! priority; who is not read; who holds most. So all that are alike get the same.

use std::cmp::Reverse;

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
    pub(super) is_idle: bool,
}

/// All shares.
#[derive(Clone, Debug, Default)]
pub(super) struct Standings {
    pub(super) shares: Vec<Standing>,
    /// Of each Dataset.
    pub(super) quotas: Vec<Quota>,
}

impl Standings {
    /// The share that gives because its Dataset holds more than it may.
    pub(super) fn over_limit(&self) -> Option<usize> {
        let is_over = |share: &&Standing| {
            let limit = self.quotas[share.dataset].limit_bytes;
            limit.is_some_and(|limit| self.held(share.dataset) > limit)
        };
        let shares = self.shares.iter().enumerate();
        let over = shares.filter(|(_, share)| share.held > 0 && is_over(share));
        over.min_by_key(|(_, share)| (share.priority, Reverse(share.held)))
            .map(|(at, _)| at)
    }

    /// The shares that have something to give, in the order in which they give when there is not enough for all.
    pub(super) fn givers(&self) -> Vec<usize> {
        let mut givers: Vec<usize> = (0..self.shares.len()).filter(|at| self.shares[*at].held > 0).collect();
        givers.sort_by_cached_key(|at| {
            let share = &self.shares[*at];
            let is_guaranteed = self.held(share.dataset) <= self.quotas[share.dataset].guaranteed_bytes;
            (is_guaranteed, share.priority, !share.is_idle, Reverse(share.held))
        });
        givers
    }

    /// What one may hold of `room`, when every other has no more than is fair.
    pub(super) fn room_of(&self, at: usize, room: u64) -> u64 {
        let share = &self.shares[at];
        let pinned: u64 = self.shares.iter().map(|share| share.pinned).sum();
        let mut room = room.saturating_sub(pinned);
        let mut alike = Vec::new();
        for other in self.shares.iter().enumerate().filter(|(other, _)| *other != at) {
            let other = other.1;
            let guaranteed = self.quotas[other.dataset].guaranteed_bytes.min(other.held);
            let held = if other.is_idle { guaranteed } else { other.held };
            match other.priority.cmp(&share.priority) {
                std::cmp::Ordering::Greater => room = room.saturating_sub(held),
                std::cmp::Ordering::Equal => alike.push(held),
                std::cmp::Ordering::Less => room = room.saturating_sub(guaranteed),
            }
        }
        let others_of_it = self.held(share.dataset) - share.held;
        let Quota {
            guaranteed_bytes,
            limit_bytes,
        } = self.quotas[share.dataset];
        fair_room(room, alike)
            .max(guaranteed_bytes.saturating_sub(others_of_it))
            .min(limit_bytes.unwrap_or(u64::MAX).saturating_sub(others_of_it))
    }

    /// Bytes that a Dataset holds, pinned or not.
    fn held(&self, dataset: usize) -> u64 {
        let shares = self.shares.iter().filter(|share| share.dataset == dataset);
        shares.map(|share| share.held + share.pinned).sum()
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
    fn standings(shares: &[(u32, u64, bool)]) -> Standings {
        let share = |(dataset, (priority, held, is_idle)): (usize, &(u32, u64, bool))| Standing {
            dataset,
            priority: *priority,
            held: *held,
            pinned: 0,
            is_idle: *is_idle,
        };
        Standings {
            shares: shares.iter().enumerate().map(share).collect(),
            quotas: vec![Quota::default(); shares.len()],
        }
    }

    #[test]
    fn lower_priority_gives_before_idle_and_idle_before_the_richest() {
        for (shares, giver) in [
            (vec![(50, 10, false), (50, 20, false)], Some(1)),
            (vec![(50, 10, true), (50, 20, false)], Some(0)),
            (vec![(60, 90, true), (50, 20, false)], Some(1)),
            (vec![(50, 0, false), (60, 20, false)], Some(1)),
            (vec![(50, 0, false)], None),
        ] {
            assert_eq!(standings(&shares).givers().first().copied(), giver, "{shares:?}");
        }
    }

    #[test]
    fn a_dataset_keeps_its_guarantee_and_gives_what_is_over_its_limit() {
        let mut all = standings(&[(10, 100, true), (90, 50, false)]);
        all.quotas[0].guaranteed_bytes = 100;
        assert_eq!(all.givers()[0], 1, "the other is not above its guarantee");
        assert_eq!(all.room_of(1, 1000), 900);
        assert_eq!(all.room_of(0, 120), 100, "whatever others hold");
        all.quotas[0].guaranteed_bytes = 99;
        assert_eq!(all.givers()[0], 0);
        assert_eq!(all.over_limit(), None);
        all.quotas[1].limit_bytes = Some(49);
        assert_eq!(all.over_limit(), Some(1));
        assert_eq!(all.room_of(1, 1000), 49);
        all.shares[1].pinned = 9;
        assert_eq!(all.room_of(1, 1000), 40);
    }

    #[test]
    fn higher_priority_takes_what_it_wants_from_lower() {
        let all = standings(&[(50, 300, false), (60, 600, false), (50, 400, false)]);
        assert_eq!(all.room_of(1, 1000), 1000);
        assert_eq!(all.room_of(0, 1000), 200, "as much as the other of its priority");
    }
}
