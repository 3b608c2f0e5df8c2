//! How much memory a policy takes for each unit, as the kernel counts it. It must not know what it is used for.

use std::process::Command;

use anyhow::{Context, ensure};
use penstock_policy::{Auto, Lfu, Lru, Policy, S3Fifo};

use crate::run::Cache;
use crate::traces::{Random, Request};

/// Set in the process that measures; nothing else may allocate in it meanwhile.
const MEASURED: &str = "PENSTOCK_MEASURED_POLICY";

const SMALL_OBJECTS: u64 = 5_000_000;
const PAGES: u64 = 1_000_000;

#[test]
fn a_page_takes_at_most_64_bytes_of_memory_and_a_small_object_24() -> anyhow::Result<()> {
    if let Ok(which) = std::env::var(MEASURED) {
        return measured(&which);
    }
    for policy in ["auto", "s3_fifo", "lru", "lfu"] {
        for (kind, limit) in [("objects", 24.0), ("pages", 64.0)] {
            let test = "memory::a_page_takes_at_most_64_bytes_of_memory_and_a_small_object_24";
            let mut child = Command::new(std::env::current_exe()?);
            let child = child.args(["--exact", test, "--nocapture"]);
            let output = child.env(MEASURED, format!("{policy} {kind}")).output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            let line = text.lines().find(|line| line.contains("bytes for each of"));
            let line = line.with_context(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))?;
            println!("{line}");
            let bytes: f64 = line.split_whitespace().nth(2).context("a number")?.parse()?;
            ensure!(bytes <= limit, "{line}, and {limit} are allowed");
        }
    }
    Ok(())
}

fn measured(which: &str) -> anyhow::Result<()> {
    let (policy, kind) = which.split_once(' ').context("a policy and a kind")?;
    let (units, bytes) = if kind == "pages" {
        (PAGES, 1 << 20)
    } else {
        (SMALL_OBJECTS, 110_000)
    };
    let capacity = units * u64::from(bytes);
    let mut stored = vec![true; 2 * units as usize];
    stored.fill(false);
    let before = resident_bytes()?;
    let policy_of = || -> Box<dyn Policy> {
        match policy {
            "auto" => Box::new(Auto::new(capacity)),
            "s3_fifo" => Box::new(S3Fifo::new(capacity)),
            "lru" => Box::new(Lru::new(capacity)),
            _ => Box::new(Lfu::new(capacity)),
        }
    };
    let mut policy = policy_of();
    // All that fits, and as much again, so that ghosts are full; half of the keys come back.
    let mut random = Random(1);
    let mut held = 0;
    for read in 0..2 * units {
        let key = if read % 4 == 3 { random.below(units) } else { read };
        if policy.read(key, bytes) && !stored[key as usize] {
            policy.inserted(key, bytes);
            stored[key as usize] = true;
            held += 1;
        }
        while held > units
            && let Some(victim) = policy.victim()
        {
            policy.removed(victim);
            stored[victim as usize] = false;
            held -= 1;
        }
    }
    ensure!(held >= units * 9 / 10, "{held} are held");
    let each = (resident_bytes()? - before) as f64 / units as f64;
    println!("{which} {each:.1} bytes for each of {units}");
    Ok(())
}

/// Bytes of this process that are in memory.
fn resident_bytes() -> anyhow::Result<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = pages
        .split_whitespace()
        .nth(1)
        .context("statm has a second number")?
        .parse()?;
    Ok(pages * 4096)
}

#[test]
fn a_read_takes_microseconds() {
    let mut cache = Cache::new(Auto::new(1 << 30), 1 << 30);
    let mut random = Random(2);
    let requests = (0..1_000_000).map(|_| Request {
        key: random.below(1 << 20),
        bytes: 4096,
    });
    let requests: Vec<Request> = requests.collect();
    let started = std::time::Instant::now();
    cache.run(&requests);
    let each = started.elapsed().as_nanos() / 1_000_000;
    println!("auto: {each} ns a read, store and eviction included");
    assert!(each < 20_000, "{each} ns a read");
}
