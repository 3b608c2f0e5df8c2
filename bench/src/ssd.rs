//! Random blocks of a tier on a disk, none of them in the kernel's memory: the engine's own read, checksum included. fio beside
//! it, with as many threads that each wait for one pread(2) at a time (`psync`), and O_DIRECT, so that it meets the disk alone.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use penstock_cache_node::Engine;
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange};
use penstock_revision::Package;
use rustix::fs::{Advice, fadvise, fdatasync};
use serde::Deserialize;

use crate::figure::{Figure, Goal, Reference};
use crate::load::{self, Took, buffer};
use crate::pipeline::Request;
use crate::places;
use crate::random::Random;
use crate::rounds::Rounds;

/// Different blocks of one round.
const READS_MAX: usize = 8000;
/// ... at most one in so many: where neighbours were read the kernel reads ahead.
const SPARSE: usize = 16;

/// The figures of `engine`, which has stored all of `package`; `flat` has the same bytes on the same disk.
///
/// # Errors
/// When a read fails or there is no fio.
pub fn figures(
    (engine, package): (&Engine, &Package),
    flat: &Path,
    runtime: &tokio::runtime::Runtime,
    rounds: &Rounds<'_>,
) -> Result<Vec<Figure>> {
    let blocks = places::pieces(package, BLOCK_BYTES)?;
    let reads = READS_MAX.min(blocks.len() / SPARSE);
    let order = |round| {
        let mut blocks = blocks.clone();
        Random(round).shuffle(&mut blocks);
        blocks.truncate(reads);
        blocks
    };
    let mut figures = Vec::new();
    for (name, threads) in [("ssd-random-4k", 1), ("ssd-random-4k-8-threads", 8)] {
        let (value, reference) = rounds.run(
            rounds.short,
            |round| {
                forget(engine, package)?;
                random_blocks((engine, package), &order(round), threads, runtime)
            },
            |round| fio(flat, places::big(package)?, (round, reads), threads),
        )?;
        figures.push(Figure {
            name: name.into(),
            value,
            unit: "reads/s",
            reference: Some(Reference {
                name: "fio psync",
                value: reference,
            }),
            goals: vec![Goal::RatioAtLeast(0.9)],
        });
    }
    Ok(figures)
}

/// Has the kernel drop what it has of the big file in the tier.
fn forget(engine: &Engine, package: &Package) -> Result<()> {
    let (address, bytes) = places::big(package)?;
    for range in BlockRange::covering(address, bytes) {
        let tiers = engine.stripe_files(&package.id(), range.stripe());
        ensure!(!tiers.is_empty(), "stripe {} is not stored", range.stripe());
        for [data, _] in tiers {
            // What is not on the disk yet cannot be dropped.
            fdatasync(&data)?;
            fadvise(&data, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// Reads a second of these blocks.
fn random_blocks(
    (engine, package): (&Engine, &Package),
    blocks: &[Request],
    threads: usize,
    runtime: &tokio::runtime::Runtime,
) -> Result<f64> {
    let parts = blocks.chunks(blocks.len().div_ceil(threads));
    let items = parts.map(|part| (part, buffer(BLOCK_BYTES as usize))).collect();
    let (time, _) = load::together(items, |(part, mut buffer)| {
        runtime.block_on(async {
            for (address, bytes) in part {
                let range = BlockRange::new(*address, *bytes)?;
                engine.read(&package.id(), range, &mut buffer, None).await?;
            }
            Ok(())
        })
    })?;
    let took = Took {
        time,
        count: blocks.len() as u64,
        bytes: blocks.len() as u64 * BLOCK_BYTES,
    };
    Ok(took.per_second())
}

/// What fio prints, as far as it is looked at.
#[derive(Deserialize)]
struct Printed {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    read: Read,
}

#[derive(Deserialize)]
struct Read {
    iops: f64,
    total_ios: u64,
}

/// Reads a second of fio, in `bytes` of the file from `first` on.
fn fio(file: &Path, (first, bytes): Request, (round, reads): (u64, usize), threads: usize) -> Result<f64> {
    let reads = reads.div_ceil(threads);
    let output = Command::new("fio")
        .args([
            "--name=bench",
            "--ioengine=psync",
            "--rw=randread",
            "--direct=1",
            "--readonly",
        ])
        .args(["--thread", "--group_reporting", "--output-format=json"])
        .arg(format!("--filename={}", file.display()))
        .arg(format!("--bs={BLOCK_BYTES}"))
        .arg(format!("--offset={first}"))
        .arg(format!("--size={bytes}"))
        .arg(format!("--number_ios={reads}"))
        .arg(format!("--randseed={}", round + 1))
        .arg(format!("--numjobs={threads}"))
        .output()
        .context("run fio (Debian package fio; e2e/tools/debian bench installs it)")?;
    ensure!(
        output.status.success(),
        "fio: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let printed: Printed = serde_json::from_slice(&output.stdout).context("fio's JSON")?;
    let [Job { read }] = printed.jobs.as_slice() else {
        anyhow::bail!("fio reported {} groups", printed.jobs.len());
    };
    ensure!(
        read.total_ios >= reads as u64,
        "fio read {} blocks only",
        read.total_ios
    );
    Ok(read.iops)
}
