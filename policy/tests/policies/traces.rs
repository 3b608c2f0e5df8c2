//! Requests as published recipes make them. They must not know policies.

use std::io::Read;

/// One request: a key and the bytes of its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub key: u64,
    pub bytes: u32,
}

/// Bytes of a unit where a recipe says nothing of sizes.
pub const UNIT_BYTES: u32 = 4096;

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): the same numbers at every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, count: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(count)) >> 64) as u64
    }

    /// From 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn shuffled(&mut self, range: std::ops::Range<u64>) -> Vec<u64> {
        let mut keys: Vec<u64> = range.collect();
        for at in (1..keys.len()).rev() {
            keys.swap(at, self.below(at as u64 + 1) as usize);
        }
        keys
    }
}

/// Ranks from 0, as likely as 1 / (rank + 1)^alpha.
pub struct Zipf(Vec<f64>);

impl Zipf {
    pub fn new(count: usize, alpha: f64) -> Self {
        let mut sum = 0.0;
        let mut shares: Vec<f64> = (1..=count)
            .map(|rank| {
                sum += (rank as f64).powf(-alpha);
                sum
            })
            .collect();
        shares.iter_mut().for_each(|share| *share /= sum);
        Self(shares)
    }

    pub fn rank(&self, random: &mut Random) -> u64 {
        let at = random.unit();
        self.0.partition_point(|share| *share <= at).min(self.0.len() - 1) as u64
    }
}

pub fn of_keys(keys: impl IntoIterator<Item = u64>) -> Vec<Request> {
    let requests = keys.into_iter().map(|key| Request { key, bytes: UNIT_BYTES });
    requests.collect()
}

pub fn zipf(count: usize, alpha: f64, requests: usize, seed: u64) -> Vec<u64> {
    let (zipf, mut random) = (Zipf::new(count, alpha), Random(seed));
    (0..requests).map(|_| zipf.rank(&mut random)).collect()
}

/// A zipf in which every so often a scan of keys that are cold comes by.
pub fn zipf_and_scans(alpha: f64, requests: usize, seed: u64) -> Vec<u64> {
    let mut keys = Vec::new();
    let mut scanned = 0;
    for part in zipf(10_000, alpha, requests, seed).chunks(20_000) {
        keys.extend(part);
        keys.extend((0..10_000).map(|at| 10_000 + (scanned + at) % 30_000));
        scanned += 10_000;
    }
    keys
}

/// YCSB's zipfian (workload C; Cooper and others, SoCC 2010): theta 0.99, scrambled, which keys do not show.
pub fn ycsb_zipfian(records: usize, requests: usize) -> Vec<u64> {
    zipf(records, 0.99, requests, 3)
}

/// YCSB's latest (workload D): one insert in twenty; what is read is as far behind the newest as a zipfian says.
pub fn ycsb_latest(records: u64, requests: usize) -> Vec<u64> {
    let (zipf, mut random) = (Zipf::new(records as usize, 0.99), Random(4));
    let mut newest = records;
    let mut keys = Vec::new();
    for _ in 0..requests {
        if random.below(20) == 0 {
            newest += 1;
            keys.push(newest);
        } else {
            keys.push(newest - zipf.rank(&mut random).min(newest));
        }
    }
    keys
}

/// YCSB's workload E: scans of 1 to 100 records, each from a record that a scrambled zipfian says.
pub fn ycsb_scans(records: u64, requests: usize) -> Vec<u64> {
    let (zipf, mut random) = (Zipf::new(records as usize, 0.99), Random(5));
    let scrambled = Random(6).shuffled(0..records);
    let mut keys = Vec::new();
    while keys.len() < requests {
        let first = scrambled[zipf.rank(&mut random) as usize];
        keys.extend((first..first + 1 + random.below(100)).map(|key| key % records));
    }
    keys
}

/// Two pools (O'Neil and others, "The LRU-K page replacement algorithm", SIGMOD 1993, section 4.1): pages of an index of
/// 100 and of records of 10,000 in turns.
pub fn two_pools(requests: usize) -> Vec<u64> {
    let mut random = Random(7);
    let key = |at| {
        if at % 2 == 0 {
            random.below(100)
        } else {
            100 + random.below(10_000)
        }
    };
    (0..requests).map(key).collect()
}

/// NURand(8191, 1, 100000) of TPC-C (clause 2.1.6), the items, four to a page.
pub fn tpcc_items(requests: usize) -> Vec<u64> {
    let mut random = Random(8);
    let item = |_| ((random.below(8192) | (1 + random.below(100_000))) + 42) % 100_000;
    (0..requests).map(item).map(|item| item / 4).collect()
}

/// Self-similar 80-20 (Gray and others, "Quickly generating billion-record synthetic databases", SIGMOD 1994).
pub fn self_similar(records: u64, requests: usize) -> Vec<u64> {
    let mut random = Random(9);
    let exponent = 0.2_f64.ln() / 0.8_f64.ln();
    (0..requests)
        .map(|_| (records as f64 * random.unit().powf(exponent)) as u64)
        .collect()
}

/// A zipf whose favourites change: every so many requests other keys have the ranks.
pub fn drifting(requests: usize) -> Vec<u64> {
    let ranks = zipf(20_000, 0.9, requests, 10);
    ranks
        .iter()
        .enumerate()
        .map(|(at, rank)| rank + at as u64 / 50_000 * 300)
        .collect()
}

/// Objects of 4 KiB to 1 MiB, log-normal around 64 KiB, asked for by a zipf.
pub fn of_sizes(alpha: f64, requests: usize) -> Vec<Request> {
    let bytes = |key: u64| {
        let mut random = Random(key.wrapping_mul(77) + 5);
        let normal: f64 = (0..12).map(|_| random.unit()).sum::<f64>() - 6.0;
        let blocks = (16.0 * (1.2 * normal).exp()).clamp(1.0, 256.0);
        blocks as u32 * 4096
    };
    let keys = zipf(20_000, alpha, requests, 11).into_iter();
    keys.map(|key| Request { key, bytes: bytes(key) }).collect()
}

/// The keys of a text file with one number a line.
pub fn of_file(path: &std::path::Path) -> anyhow::Result<Vec<u64>> {
    let mut text = String::new();
    std::fs::File::open(path)?.read_to_string(&mut text)?;
    Ok(text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}
