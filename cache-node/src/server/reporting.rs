//! Which reports an operator is sent: each look at the figures is handed in, and the answer is whether it is told. Pure;
//! knows neither the node nor the clock.

use penstock_protocol::control::cache_node::NodeReport;

use crate::limits::{REPORT_REST_LOOKS, REPORT_STEP_BYTES};

/// What one operator was told and what was seen since.
#[derive(Default)]
pub(super) struct Reporting {
    told: Option<NodeReport>,
    seen: NodeReport,
    /// How many looks in a row found what the one before had found.
    unmoved_looks: u32,
}

impl Reporting {
    /// A configuration came: it is answered by the next look, whatever that finds.
    pub(super) fn configured(&mut self) {
        self.told = None;
    }

    /// Whether this look is to be told. While bytes move that is at steps; when they have come to rest what is left is told,
    /// once, so that the operator has the exact figures and an idle node is silent.
    pub(super) fn is_news(&mut self, now: &NodeReport) -> bool {
        let is_unmoved = self.seen == *now;
        self.unmoved_looks = if is_unmoved {
            self.unmoved_looks.saturating_add(1)
        } else {
            0
        };
        let rests = self.unmoved_looks >= REPORT_REST_LOOKS;
        let is_news = match &self.told {
            None => true,
            Some(told) => moved_a_step(told, now) || rests && told != now,
        };
        if is_news {
            self.told = Some(now.clone());
        }
        if !is_unmoved {
            self.seen = now.clone();
        }
        is_news
    }
}

/// Whether the bytes of a space differ by a step, or anything but bytes at all.
fn moved_a_step(before: &NodeReport, now: &NodeReport) -> bool {
    let without_bytes = |report: &NodeReport| {
        let mut report = report.clone();
        report.spaces.iter_mut().for_each(|space| space.cached_bytes = 0);
        report.tiers.iter_mut().for_each(|tier| tier.used_bytes = 0);
        report
    };
    let moved = before
        .spaces
        .iter()
        .zip(&now.spaces)
        .any(|(a, b)| a.cached_bytes.abs_diff(b.cached_bytes) >= REPORT_STEP_BYTES);
    moved || without_bytes(before) != without_bytes(now)
}

#[cfg(test)]
mod tests {
    use penstock_protocol::control::cache_node::{SpaceUsage, Tier};

    use super::*;

    const REST: usize = REPORT_REST_LOOKS as usize;
    const STEP: u64 = REPORT_STEP_BYTES;

    fn with_bytes(cached_bytes: u64) -> NodeReport {
        NodeReport {
            spaces: vec![SpaceUsage {
                space: vec![5; 16],
                cached_bytes,
            }],
            tiers: vec![Tier {
                used_bytes: cached_bytes,
                ..Tier::default()
            }],
            ..NodeReport::default()
        }
    }

    /// The figures that are told of those that are seen, one a look.
    fn told(reporting: &mut Reporting, seen: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let seen = seen.into_iter();
        seen.filter(|bytes| reporting.is_news(&with_bytes(*bytes))).collect()
    }

    #[test]
    fn what_moves_is_told_at_steps() {
        let mut reporting = Reporting::default();
        let quarters = (0..=10).map(|quarter| quarter * STEP / 4);
        assert_eq!(told(&mut reporting, quarters), [0, STEP, 2 * STEP]);
        // Also when each step takes a while, and when it goes back.
        let slow = [2 * STEP + 1, 2 * STEP + 2].into_iter().cycle().take(10 * REST);
        assert_eq!(told(&mut reporting, slow), [0; 0]);
        assert_eq!(told(&mut reporting, [STEP + 1, STEP]), [STEP]);
    }

    #[test]
    fn what_came_to_rest_is_told_exactly_and_once() {
        let mut reporting = Reporting::default();
        assert_eq!(told(&mut reporting, [0]), [0]);
        let pauses = [vec![4096; REST], vec![8192; REST]].concat();
        assert_eq!(told(&mut reporting, pauses), [0; 0], "a reader that pauses goes on");
        assert_eq!(told(&mut reporting, [8192]), [8192], "it rests");
        assert_eq!(told(&mut reporting, vec![8192; 10 * REST]), [0; 0], "nothing is new");
        assert_eq!(told(&mut reporting, vec![0; 10 * REST]), [0]);
    }

    #[test]
    fn a_configuration_and_all_but_bytes_are_told_at_once() {
        let mut reporting = Reporting::default();
        assert_eq!(told(&mut reporting, [1, 2]), [1]);
        reporting.configured();
        assert_eq!(told(&mut reporting, [2, 2]), [2]);
        let mut full = with_bytes(2);
        full.tiers[0].fault = "full".into();
        assert!(reporting.is_news(&full) && !reporting.is_news(&full));
    }
}
