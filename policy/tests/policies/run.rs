//! A cache as the engine will be, without bytes: runs requests against a policy and counts. It must not know which policy.

use std::collections::HashMap;

use penstock_policy::Policy;

use crate::traces::Request;

/// What is stored, and what was counted.
pub struct Cache<P> {
    pub policy: P,
    pub capacity: u64,
    pub stored: HashMap<u64, u32>,
    pub bytes: u64,
}

/// Parts of requests, and of their bytes, that were hits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ratios {
    pub requests: f64,
    pub bytes: f64,
}

impl<P: Policy> Cache<P> {
    pub fn new(policy: P, capacity: u64) -> Self {
        let stored = HashMap::new();
        Self {
            policy,
            capacity,
            stored,
            bytes: 0,
        }
    }

    /// True when it was a hit.
    pub fn read(&mut self, request: Request) -> bool {
        let Request { key, bytes } = request;
        let hit = self.stored.contains_key(&key);
        if self.policy.read(key, bytes) && !hit {
            self.policy.inserted(key, bytes);
            self.bytes += u64::from(bytes);
            self.stored.insert(key, bytes);
            self.evict();
        }
        hit
    }

    /// A unit that was found on disk.
    pub fn restored(&mut self, request: Request) {
        self.policy.inserted(request.key, request.bytes);
        self.bytes += u64::from(request.bytes);
        self.stored.insert(request.key, request.bytes);
    }

    pub fn resize(&mut self, capacity: u64) {
        self.capacity = capacity;
        self.policy.resize(capacity);
        self.evict();
    }

    fn evict(&mut self) {
        while self.bytes > self.capacity {
            let victim = self.policy.victim().expect("there are units, so one can go");
            let bytes = self.stored.remove(&victim).expect("a victim is stored");
            self.bytes -= u64::from(bytes);
            self.policy.removed(victim);
        }
    }

    pub fn run<'a>(&mut self, requests: impl IntoIterator<Item = &'a Request>) -> Ratios {
        let (mut count, mut hits, mut bytes, mut hit_bytes) = (0_u64, 0_u64, 0_u64, 0_u64);
        for request in requests {
            count += 1;
            bytes += u64::from(request.bytes);
            if self.read(*request) {
                hits += 1;
                hit_bytes += u64::from(request.bytes);
            }
        }
        Ratios {
            requests: hits as f64 / count as f64,
            bytes: hit_bytes as f64 / bytes as f64,
        }
    }
}
