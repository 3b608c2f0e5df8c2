//! Shares of one cache node: readers of several Datasets, whose blocks it has, ask for them all at the same time, each over a
//! connection of its own. How even their shares are is Jain's index (DEC-TR-301, 1984): 1 when all got the same, `1 / n` when
//! one of `n` got everything.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use penstock::local::{self, Source};
use penstock_cache_node::memory::Budget;
use penstock_cache_node::{Engine, EngineConfig, TierConfig};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{BuildOptions, Package, Scratch};

use crate::bulk_connection::BulkConnection;
use crate::data::BIG;
use crate::figure::{Figure, Goal, median};
use crate::pipeline::{self, Checksums, Request};
use crate::random::Random;
use crate::rounds::Rounds;
use crate::{CAPACITY_BYTES, cached, load, places};

const DATASETS: usize = 4;
const READERS_OF_EACH: usize = 8;
const REQUEST_BYTES: u64 = 1 << 20;
/// So much of each Dataset: all of them are in the kernel's memory.
const REQUESTS: usize = 64;
/// How many of a filling reader are in flight.
const FILLING_DEPTH: usize = 8;

/// The figures of a cache node with several Datasets of `source`, read for `time`.
///
/// # Errors
/// When a read fails.
pub fn figures(
    scratch: &Path,
    (source, told): (&Source, &wire::Source),
    time: Duration,
    runtime: &tokio::runtime::Runtime,
    rounds: &Rounds<'_>,
) -> Result<Vec<Figure>> {
    let folder = scratch.join("fair");
    let engine = {
        let _entered = runtime.enter();
        Engine::open(EngineConfig {
            tiers: vec![TierConfig {
                name: "bench".into(),
                path: folder.join("blocks"),
                capacity_bytes: Some(CAPACITY_BYTES),
            }],
            memory: Budget::default(),
            scratch: Scratch::memory(),
        })?
    };
    let packages = runtime.block_on(packages(source))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let server = cached::serve((&engine, None), &packages, told, (&folder, listener), runtime)?;
    let connect = |package: &Package| BulkConnection::new(server, package, Checksums::Computed);
    let requests = |package: &Package| -> Result<Vec<Request>> {
        let mut pieces = places::pieces(package, REQUEST_BYTES)?;
        pieces.truncate(REQUESTS);
        Ok(pieces)
    };
    for package in &packages {
        pipeline::fetch(&mut connect(package)?, &requests(package)?, FILLING_DEPTH)?;
    }
    let (mut evenness, mut rates) = (Vec::new(), Vec::new());
    for round in 0..rounds.long as u64 {
        rounds.stop.check()?;
        let mut readers = Vec::new();
        for (number, package) in (0..READERS_OF_EACH as u64).flat_map(|i| packages.iter().map(move |p| (i, p))) {
            let mut order = requests(package)?;
            Random(round * 1000 + number).shuffle(&mut order);
            readers.push((connect(package)?, order));
        }
        let (took, bytes) = load::together(readers, |(mut connection, order)| {
            pipeline::fetch_for(&mut connection, &order, time)
        })?;
        evenness.push(jain(&bytes));
        rates.push(bytes.iter().sum::<u64>() as f64 / took.as_secs_f64() / (1u64 << 30) as f64);
    }
    drop(engine);
    std::fs::remove_dir_all(&folder).context("remove what the Datasets cached")?;
    let figure = |name: &str, value, unit, goals| Figure {
        name: name.into(),
        value,
        unit,
        reference: None,
        goals,
    };
    Ok(vec![
        figure("fair-32-readers", median(evenness), "Jain", vec![Goal::AtLeast(0.95)]),
        figure("fair-32-readers-together", median(rates), "GiB/s", vec![]),
    ])
}

/// Revisions of the big file, each in a space of its own.
async fn packages(source: &Source) -> Result<Vec<Package>> {
    let mut listings = local::list(std::slice::from_ref(source)).await?;
    listings
        .iter_mut()
        .for_each(|listing| listing.objects.retain(|object| object.key == BIG));
    let mut packages = Vec::new();
    for _ in 0..DATASETS {
        packages.push(local::revision(None, listings.clone(), BuildOptions::default()).await?);
    }
    Ok(packages)
}

/// Jain's index of `shares`.
fn jain(shares: &[u64]) -> f64 {
    let sum: f64 = shares.iter().map(|share| *share as f64).sum();
    let squares: f64 = shares.iter().map(|share| (*share as f64).powi(2)).sum();
    sum * sum / (shares.len() as f64 * squares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_shares_are_one_and_everything_for_one_of_four_is_a_quarter() {
        for (shares, index) in [([5, 5, 5, 5], 1.0), ([8, 0, 0, 0], 0.25), ([4, 4, 0, 0], 0.5)] {
            assert!((jain(&shares) - index).abs() < 1e-9, "{shares:?}");
        }
    }
}
