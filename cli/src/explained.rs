//! What the cache nodes of a pool say of the parts of a file, as one answer. Pure; it must not know how it is printed.

use std::collections::BTreeSet;

use penstock_protocol::control::cache_node::ExplainedRange;
use penstock_protocol::control::cache_node::explained_range::State;

/// A part of a file of which the same is true on all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it begins.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
    /// The node that readers ask first; "" while there is no ring.
    pub owner: String,
    /// What is the best of it: cached somewhere, else on its way, else why its owner has it not.
    pub state: State,
    /// The nodes for which that is so, each with the tier.
    pub places: Vec<(String, String)>,
}

/// One answer of what each node said: its ranges lie one behind the other from 0 on.
pub fn merged(said: &[(String, Vec<ExplainedRange>)]) -> Vec<Part> {
    let ends = |range: &ExplainedRange| [range.offset, range.offset + range.bytes];
    let borders: BTreeSet<u64> = said.iter().flat_map(|(_, ranges)| ranges).flat_map(ends).collect();
    let borders: Vec<u64> = borders.into_iter().collect();
    let mut parts: Vec<Part> = Vec::new();
    for border in borders.windows(2) {
        let seen = said.iter().filter_map(|(node, ranges)| {
            let behind = ranges.partition_point(|range| range.offset <= border[0]);
            let range = ranges.get(behind.checked_sub(1)?)?;
            (range.offset + range.bytes > border[0]).then_some((node.as_str(), range))
        });
        let seen: Vec<(&str, &ExplainedRange)> = seen.collect();
        let (state, places) = best(&seen);
        let part = Part {
            offset: border[0],
            bytes: border[1] - border[0],
            owner: owner(&seen),
            state,
            places,
        };
        match parts.last_mut() {
            Some(last) if is_alike(last, &part) => last.bytes += part.bytes,
            _ => parts.push(part),
        }
    }
    parts
}

/// Whether a state is that of cached bytes.
pub fn is_cached(state: State) -> bool {
    rank(state) == 0
}

/// The less, the better a reader is off.
fn rank(state: State) -> u8 {
    match state {
        State::Pinned | State::Kept | State::Passing => 0,
        State::Coming | State::ComingBy => 1,
        State::Others | State::NoTier | State::NoSource | State::Unread | State::Contested | State::Unknown => 2,
    }
}

/// Who it belongs to, as the first says that knows.
fn owner(seen: &[(&str, &ExplainedRange)]) -> String {
    let named = seen.iter().find(|(_, range)| !range.owner.is_empty());
    named.map_or_else(String::new, |(_, range)| range.owner.clone())
}

fn best(seen: &[(&str, &ExplainedRange)]) -> (State, Vec<(String, String)>) {
    let least = seen.iter().map(|(_, range)| rank(range.state())).min();
    let owner = owner(seen);
    let (state, of) = match least {
        Some(least @ 0..=1) => {
            let first = seen.iter().find(|(_, range)| rank(range.state()) == least);
            (first.map(|(_, range)| range.state()), least)
        }
        // Why it is missing is known by its owner alone, who may not have answered.
        Some(least) => {
            let of_owner = seen.iter().find(|(node, _)| owner.is_empty() || *node == owner);
            return match of_owner {
                Some((node, range)) if rank(range.state()) == least => {
                    (range.state(), vec![((*node).to_owned(), String::new())])
                }
                _ => (State::Unknown, Vec::new()),
            };
        }
        None => (None, 2),
    };
    let places = seen.iter().filter(|(_, range)| rank(range.state()) == of);
    let places = places.map(|(node, range)| ((*node).to_owned(), range.tier.clone()));
    (state.unwrap_or(State::Unknown), places.collect())
}

fn is_alike(one: &Part, next: &Part) -> bool {
    let Part {
        offset: _,
        bytes: _,
        owner,
        state,
        places,
    } = one;
    *owner == next.owner && *state == next.state && *places == next.places
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Length, state and owner of each.
    type Ranges<'a> = &'a [(u64, State, &'a str)];

    fn ranges(of: Ranges<'_>) -> Vec<ExplainedRange> {
        let mut offset = 0;
        let range = |(bytes, state, owner): &(u64, State, &str)| {
            offset += bytes;
            ExplainedRange {
                offset: offset - bytes,
                bytes: *bytes,
                owner: (*owner).into(),
                state: (*state).into(),
                tier: if is_cached(*state) { "ssd".into() } else { String::new() },
            }
        };
        of.iter().map(range).collect()
    }

    fn seen(said: &[(&str, Ranges<'_>)]) -> Vec<(u64, u64, String, State, String)> {
        let said: Vec<_> = said.iter().map(|(node, of)| ((*node).to_owned(), ranges(of))).collect();
        let part = |part: Part| {
            let places: Vec<String> = part
                .places
                .iter()
                .map(|(node, tier)| format!("{node}:{tier}"))
                .collect();
            (part.offset, part.bytes, part.owner, part.state, places.join(" "))
        };
        merged(&said).into_iter().map(part).collect()
    }

    #[test]
    fn what_is_cached_anywhere_is_cached_and_why_not_says_the_owner() {
        let two = seen(&[
            (
                "a",
                &[
                    (10, State::Kept, "a"),
                    (20, State::Unread, "a"),
                    (30, State::Others, "b"),
                ],
            ),
            (
                "b",
                &[
                    (5, State::Others, "a"),
                    (10, State::Kept, "a"),
                    (15, State::Others, "a"),
                    (10, State::Contested, "b"),
                    (20, State::Coming, "b"),
                ],
            ),
        ]);
        let part = |offset, bytes, owner: &str, state, places: &str| {
            (offset, bytes, owner.to_owned(), state, places.to_owned())
        };
        let expected = [
            part(0, 5, "a", State::Kept, "a:ssd"),
            part(5, 5, "a", State::Kept, "a:ssd b:ssd"),
            part(10, 5, "a", State::Kept, "b:ssd"),
            part(15, 15, "a", State::Unread, "a:"),
            part(30, 10, "b", State::Contested, "b:"),
            part(40, 20, "b", State::Coming, "b:"),
        ];
        assert_eq!(two, expected);
    }

    #[test]
    fn what_only_a_silent_owner_knows_is_not_known() {
        let one = seen(&[(
            "a",
            &[
                (10, State::Kept, "a"),
                (30, State::Others, "b"),
                (5, State::Passing, "b"),
            ],
        )]);
        let states: Vec<_> = one.iter().map(|(offset, _, _, state, _)| (*offset, *state)).collect();
        assert_eq!(states, [(0, State::Kept), (10, State::Unknown), (40, State::Passing)]);
        // Without a ring the node that was asked is the only one.
        let alone = seen(&[("a", &[(10, State::NoSource, "")])]);
        assert_eq!(alone[0].3, State::NoSource);
        assert_eq!(seen(&[("a", &[])]), []);
    }
}
