//! From how a Dataset is to be cached to what cache nodes are told: complete rules. Pure.

use penstock_crds::{CacheRule, Caching, Eviction, Quota, bytes_of};
use penstock_protocol::control::cache_node as wire;

/// Priority of what has none.
const PRIORITY_DEFAULT: i32 = 50;

/// The rules, each with what shorter paths say and it does not.
pub(crate) fn rules(caching: &Caching) -> Vec<wire::CacheRule> {
    let complete = |rule: &CacheRule| {
        let mut around: Vec<&CacheRule> = caching
            .rules
            .iter()
            .filter(|other| is_below(&rule.path, &other.path))
            .collect();
        around.sort_by_key(|other| std::cmp::Reverse(other.path.len()));
        let eviction = first(&around, |rule| rule.eviction).unwrap_or(Eviction::Auto);
        wire::CacheRule {
            path: rule.path.clone(),
            pin: first(&around, |rule| rule.pin).unwrap_or(false),
            ttl_seconds: first(&around, |rule| rule.ttl_seconds)
                .map_or(0, i32::unsigned_abs)
                .into(),
            priority: first(&around, |rule| rule.priority)
                .unwrap_or(PRIORITY_DEFAULT)
                .unsigned_abs(),
            eviction: match eviction {
                Eviction::Auto => wire::cache_rule::Eviction::Auto,
                Eviction::LRU => wire::cache_rule::Eviction::Lru,
                Eviction::LFU => wire::cache_rule::Eviction::Lfu,
            }
            .into(),
            tier: first(&around, |rule| rule.tier.clone()).unwrap_or_default(),
        }
    };
    caching.rules.iter().map(complete).collect()
}

/// What it may hold.
pub(crate) fn quota(caching: &Caching) -> Option<wire::Quota> {
    let Quota { guaranteed, limit } = caching.quota.as_ref()?;
    // The patterns of the schema admit only what this understands, up to the size of the number.
    let bytes = |quantity: &String| bytes_of(quantity).unwrap_or(u64::MAX);
    Some(wire::Quota {
        guaranteed_bytes: guaranteed.as_ref().map_or(0, bytes),
        limit_bytes: limit.as_ref().map(bytes),
    })
}

fn first<T>(rules: &[&CacheRule], says: impl Fn(&CacheRule) -> Option<T>) -> Option<T> {
    rules.iter().find_map(|rule| says(rule))
}

/// Whether a path is another or below it.
fn is_below(path: &str, other: &str) -> bool {
    let rest = path.strip_prefix(other);
    rest.is_some_and(|rest| other.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_says_what_it_says_and_for_the_rest_what_shorter_paths_say() {
        let caching: Caching = serde_json::from_value(json!({
            "quota": {"guaranteed": "1Gi"},
            "rules": [
                {"path": "", "priority": 10, "ttlSeconds": 60},
                {"path": "a", "pin": true, "tier": "ssd"},
                {"path": "a/b", "pin": false, "eviction": "LFU", "priority": 90},
                {"path": "ab"},
            ],
        }))
        .unwrap();
        let rules = rules(&caching);
        let said = |rule: &wire::CacheRule| {
            let (pin, tier, eviction) = (rule.pin, rule.tier.clone(), rule.eviction());
            (rule.path.clone(), pin, rule.ttl_seconds, rule.priority, tier, eviction)
        };
        use wire::cache_rule::Eviction::{Auto, Lfu};
        let (none, ssd) = (String::new(), "ssd".to_owned());
        assert_eq!(
            rules.iter().map(said).collect::<Vec<_>>(),
            [
                (String::new(), false, 60, 10, none.clone(), Auto),
                ("a".into(), true, 60, 10, ssd.clone(), Auto),
                ("a/b".into(), false, 60, 90, ssd, Lfu),
                ("ab".into(), false, 60, 10, none, Auto),
            ]
        );
        let quota = quota(&caching).unwrap();
        assert_eq!((quota.guaranteed_bytes, quota.limit_bytes), (1 << 30, None));
    }
}
