//! What a Dataset wants of the cache, and what of that can be done. Pure; knows neither tiers nor clocks.

mod classes;

use std::time::Duration;

pub(crate) use classes::Classes;

/// Priority of what has no rule.
pub const PRIORITY_DEFAULT: u32 = 50;

/// What a Dataset wants of the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// How much it may hold.
    pub quota: Quota,
    /// Complete rules, each for a path and what is below it; the longest path counts. What has none is kept by
    /// [`Rule::default`].
    pub rules: Vec<Rule>,
}

/// Bytes of the whole pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Below so many bytes no other Dataset makes it give.
    pub guaranteed_bytes: u64,
    /// It never holds more.
    pub limit_bytes: Option<u64>,
}

impl Rules {
    /// The rules with one for everything first.
    pub(crate) fn complete(&self) -> Vec<Rule> {
        let (mut whole, parts): (Vec<Rule>, Vec<Rule>) =
            self.rules.iter().cloned().partition(|rule| rule.path.is_empty());
        whole.truncate(1);
        if whole.is_empty() {
            whole.push(Rule::default());
        }
        whole.into_iter().chain(parts).collect()
    }
}

impl Quota {
    /// What one of `nodes` nodes, that hold the same, has of it.
    pub(crate) fn of_node(self, nodes: u64) -> Self {
        Self {
            guaranteed_bytes: self.guaranteed_bytes / nodes,
            limit_bytes: self.limit_bytes.map(|bytes| bytes.div_ceil(nodes)),
        }
    }
}

/// How a path is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A path of the Dataset's tree, without slashes around it; "" is all of it.
    pub path: String,
    /// Never evicted.
    pub pin: bool,
    /// What nobody has read for so long is evicted.
    pub ttl: Option<Duration>,
    /// What has less gives first.
    pub priority: u32,
    /// Who says what goes.
    pub eviction: Eviction,
    /// The fastest tier that it may be in; any if it is not said.
    pub tier: Option<String>,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            path: String::new(),
            pin: false,
            ttl: None,
            priority: PRIORITY_DEFAULT,
            eviction: Eviction::Auto,
            tier: None,
        }
    }
}

/// Who says what goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eviction {
    /// Finds out what suits the traffic.
    #[default]
    Auto,
    /// What was read longest ago.
    Lru,
    /// What was read least often.
    Lfu,
}

/// Why something of the rules is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// UID of the Dataset.
    pub dataset: String,
    /// One sentence that says what to do.
    pub message: String,
}

/// A Dataset and what it wants, as far as this node is concerned.
pub(crate) struct Wish {
    pub(crate) dataset: String,
    /// Of this node.
    pub(crate) quota: Quota,
    /// Complete.
    pub(crate) rules: Vec<Rule>,
    /// Bytes on this node of the files of each rule.
    pub(crate) bytes: Vec<u64>,
}

/// Takes out of the wishes what cannot be done in `room` bytes that may be promised and with the tiers that there are, and says
/// so. Who comes first is served first.
pub(crate) fn refuse(wishes: &mut [Wish], room: u64, tiers: &[String]) -> Vec<Refusal> {
    let (mut left, mut refusals) = (room, Vec::new());
    for wish in wishes {
        let mut refuse = |message: String| {
            refusals.push(Refusal {
                dataset: wish.dataset.clone(),
                message,
            });
        };
        let Quota {
            guaranteed_bytes,
            limit_bytes,
        } = &mut wish.quota;
        let limit = limit_bytes.unwrap_or(u64::MAX);
        if *guaranteed_bytes > limit {
            refuse(format!(
                "more is guaranteed than it may hold ({} and {} on each cache node): the limit counts",
                size(*guaranteed_bytes),
                size(limit)
            ));
            *guaranteed_bytes = limit;
        }
        if *guaranteed_bytes > left {
            refuse(format!(
                "{} on each cache node cannot be guaranteed, {} can still be promised there: raise the capacity of the \
                 CacheRuntime, or lower guarantees and pins of its Datasets",
                size(*guaranteed_bytes),
                size(left)
            ));
            *guaranteed_bytes = 0;
        }
        left -= *guaranteed_bytes;
        // What is pinned counts as guaranteed.
        let mut guaranteed_left = *guaranteed_bytes;
        let mut pinned = 0;
        for (rule, bytes) in wish.rules.iter_mut().zip(&wish.bytes) {
            if let Some(tier) = rule.tier.take_if(|tier| !tiers.contains(tier)) {
                refuse(format!(
                    "there is no tier {tier:?} for {}, the CacheRuntime has {}: any tier is used",
                    path(rule),
                    tiers.join(", ")
                ));
            }
            if !rule.pin {
                continue;
            }
            if *bytes == 0 {
                refuse(format!(
                    "nothing is pinned by {}, which has no files in the newest revision; look at the path",
                    path(rule)
                ));
            }
            let promised = bytes.saturating_sub(guaranteed_left);
            if promised > left || pinned + bytes > limit {
                refuse(format!(
                    "{} is not pinned: it has {} on each cache node, and {} can still be promised there: raise the capacity of \
                     the CacheRuntime or the limit of the Dataset, or pin less",
                    path(rule),
                    size(*bytes),
                    size((left + guaranteed_left).min(limit - pinned.min(limit)))
                ));
                rule.pin = false;
                continue;
            }
            pinned += bytes;
            guaranteed_left -= guaranteed_left.min(*bytes);
            left -= promised;
        }
    }
    refusals
}

fn path(rule: &Rule) -> String {
    if rule.path.is_empty() {
        "the Dataset".to_owned()
    } else {
        format!("{:?}", rule.path)
    }
}

/// For people.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(path: &str) -> Rule {
        Rule {
            path: path.into(),
            ..Rule::default()
        }
    }

    fn pin(path: &str) -> Rule {
        Rule {
            pin: true,
            ..rule(path)
        }
    }

    #[test]
    fn what_cannot_be_promised_is_refused_with_a_reason_and_the_rest_is_done() {
        let wish = |dataset: &str, guaranteed_bytes, limit_bytes, rules: Vec<Rule>, bytes: Vec<u64>| Wish {
            dataset: dataset.into(),
            quota: Quota {
                guaranteed_bytes,
                limit_bytes,
            },
            rules,
            bytes,
        };
        let fast = Rule {
            tier: Some("fast".into()),
            ..rule("a")
        };
        let mut wishes = [
            wish("guaranteed", 60 << 20, None, vec![rule("")], vec![0]),
            wish("too much", 60 << 20, None, vec![rule("")], vec![0]),
            wish(
                "pinned",
                0,
                None,
                vec![rule(""), pin("a"), pin("b")],
                vec![0, 30 << 20, 30 << 20],
            ),
            wish("limited", 0, Some(1 << 20), vec![pin("")], vec![2 << 20]),
            wish("within its guarantee", 10 << 20, None, vec![pin("")], vec![10 << 20]),
            wish("nowhere", 0, None, vec![rule(""), fast], vec![0, 0]),
            wish("empty", 0, None, vec![rule(""), pin("a")], vec![0, 0]),
        ];
        let refused = refuse(&mut wishes, 100 << 20, &["ssd".to_owned()]);
        let of = |refusal: &Refusal| refusal.dataset.clone();
        assert_eq!(
            refused.iter().map(of).collect::<Vec<_>>(),
            ["too much", "pinned", "limited", "nowhere", "empty"]
        );
        assert!(
            refused[1]
                .message
                .contains("\"b\" is not pinned: it has 30 MiB on each cache node, and 10 MiB"),
            "{}",
            refused[1].message
        );
        assert_eq!(wishes[1].quota.guaranteed_bytes, 0);
        assert_eq!(
            wishes[2].rules.iter().map(|rule| rule.pin).collect::<Vec<_>>(),
            [false, true, false]
        );
        assert!(!wishes[3].rules[0].pin && wishes[4].rules[0].pin && wishes[6].rules[1].pin);
        assert_eq!(wishes[5].rules[1].tier, None);
    }
}
