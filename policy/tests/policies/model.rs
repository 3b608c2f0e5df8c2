//! Each policy beside a naive model, under random calls. It must not know which unit should go.

use std::collections::HashMap;

use penstock_policy::{Auto, Lfu, Lru, Policy, S3Fifo};
use proptest::prelude::*;

/// What an engine may do.
#[derive(Clone, Debug)]
enum Call {
    Read(u64, u32),
    /// Inserted unread, as after a restart, or grown.
    Insert(u64, u32),
    /// Removed by the engine's own will.
    Remove(u64),
    /// A victim is named; true: it is removed.
    Victim(bool),
    Resize(u64),
}

fn call() -> impl Strategy<Value = Call> {
    let key = 0..200_u64;
    prop_oneof![
        12 => (key.clone(), 1..64_u32).prop_map(|(key, bytes)| Call::Read(key, bytes)),
        2 => (key.clone(), 1..64_u32).prop_map(|(key, bytes)| Call::Insert(key, bytes)),
        1 => key.prop_map(Call::Remove),
        3 => any::<bool>().prop_map(Call::Victim),
        1 => (0..4000_u64).prop_map(Call::Resize),
    ]
}

const CAPACITY: u64 = 2000;

fn agrees_with_a_map<P: Policy>(mut policy: P, bytes: fn(&P) -> u64, calls: &[Call]) -> Result<(), TestCaseError> {
    let mut stored: HashMap<u64, u32> = HashMap::new();
    let mut capacity = CAPACITY;
    for call in calls {
        match *call {
            Call::Read(key, size) => {
                let is_there = stored.contains_key(&key);
                let answer = policy.read(key, size);
                prop_assert!(answer || !is_there, "what is stored is not passed through");
                prop_assert!(
                    is_there || !answer || u64::from(size) <= capacity,
                    "what cannot fit is not admitted"
                );
                if answer && !is_there {
                    policy.inserted(key, size);
                    stored.insert(key, size);
                }
            }
            Call::Insert(key, size) => {
                policy.inserted(key, size);
                stored.insert(key, size);
            }
            Call::Remove(key) => {
                policy.removed(key);
                stored.remove(&key);
            }
            Call::Victim(removed) => {
                let victim = policy.victim();
                prop_assert_eq!(victim.is_none(), stored.is_empty());
                if let Some(key) = victim {
                    prop_assert!(stored.contains_key(&key), "{key} is not stored");
                    if removed {
                        policy.removed(key);
                        stored.remove(&key);
                    }
                }
            }
            Call::Resize(to) => {
                policy.resize(to);
                capacity = to;
            }
        }
        let sum: u64 = stored.values().map(|bytes| u64::from(*bytes)).sum();
        prop_assert_eq!(bytes(&policy), sum);
    }
    // Whoever refuses again and again is told all there is, and a cache can be emptied.
    let mut named: Vec<u64> = (0..32 * stored.len()).filter_map(|_| policy.victim()).collect();
    named.sort_unstable();
    named.dedup();
    prop_assert_eq!(named.len(), stored.len());
    while let Some(key) = policy.victim() {
        policy.removed(key);
        prop_assert!(stored.remove(&key).is_some());
    }
    prop_assert!(stored.is_empty());
    Ok(())
}

proptest! {
    #[test]
    fn auto_knows_what_a_map_knows(calls in prop::collection::vec(call(), 1..3000)) {
        agrees_with_a_map(Auto::new(CAPACITY), Auto::bytes, &calls)?;
    }

    #[test]
    fn s3_fifo_knows_what_a_map_knows(calls in prop::collection::vec(call(), 1..3000)) {
        agrees_with_a_map(S3Fifo::new(CAPACITY), S3Fifo::bytes, &calls)?;
    }

    #[test]
    fn lru_knows_what_a_map_knows(calls in prop::collection::vec(call(), 1..3000)) {
        agrees_with_a_map(Lru::new(CAPACITY), Lru::bytes, &calls)?;
    }

    #[test]
    fn lfu_knows_what_a_map_knows(calls in prop::collection::vec(call(), 1..3000)) {
        agrees_with_a_map(Lfu::new(CAPACITY), Lfu::bytes, &calls)?;
    }
}
