//! The first touch of blocks that another node has: a cache node in another network namespace serves them. The least that
//! can move the same bytes over the same cable beside it: a loop around sendfile(2).

use std::path::Path;

use anyhow::Result;
use penstock_mounter::Neighbours;
use penstock_revision::Package;

use crate::cached::Cached;
use crate::data::{BIG, Data};
use crate::figure::{Figure, Goal, Reference};
use crate::first_touch::RANDOM_READS;
use crate::load;
use crate::namespace::Namespace;
use crate::pipeline::{self, Checksums};
use crate::places;
use crate::random::Random;
use crate::rounds::Rounds;
use crate::sendfile_loop::{self, SendfileConnection};
use crate::shown::Shown;

const REQUEST_BYTES: u64 = 1 << 20;

/// The figures of a mount whose blocks come from a cache node with `engine`, where everything is cached.
///
/// # Errors
/// When a read fails or there is no `ip` command.
pub fn figures(
    scratch: &Path,
    cached: &Cached<'_>,
    (data, flat): (&Data, &Path),
    runtime: &tokio::runtime::Runtime,
    rounds: &Rounds<'_>,
) -> Result<Vec<Figure>> {
    let folder = scratch.join("other");
    let namespace = Namespace::new()?;
    let server = cached.serve(&folder, namespace.listen()?, runtime)?;
    // Its files are on this node, which in a cluster they are not.
    let nobody = Neighbours::new(folder.join("nobody"), 0, runtime.handle().clone());
    let ours = Shown::new(
        &folder,
        cached.package,
        cached.reader(server, &nobody),
        runtime.handle(),
    )?;
    let raw = sendfile_loop::serve(namespace.listen()?, flat, None)?;
    let connect = || SendfileConnection::new(raw, None, Checksums::Ignored);
    let places = Places::of(cached.package, data)?;

    let mut figures = Vec::new();
    let mut figure = |name: &str, unit, goals, (value, reference)| {
        figures.push(Figure {
            name: name.into(),
            value,
            unit,
            reference: Some(Reference {
                name: "raw sendfile loop",
                value: reference,
            }),
            goals,
        });
    };
    let medians = rounds.run(
        rounds.short,
        |_| {
            ours.forget()?;
            Ok(load::sequential(&ours.root().join(BIG))?.gib_per_second())
        },
        |_| Ok(pipeline::fetch(&mut connect()?, &places.sequential(), 2)?.gib_per_second()),
    )?;
    figure(
        "other-node-sequential",
        "GiB/s",
        vec![Goal::RatioAtLeast(0.85)],
        medians,
    );
    let medians = rounds.run(
        rounds.short,
        |round| {
            ours.forget()?;
            Ok(load::epoch(&data.small_below(ours.root()), round, 1)?.per_second())
        },
        |round| Ok(pipeline::fetch(&mut connect()?, &places.small(round), 1)?.per_second()),
    )?;
    figure("other-node-small-files", "files/s", vec![], medians);
    for (name, depth) in [("other-node-random-4k", 1), ("other-node-random-4k-depth-8", 8)] {
        let medians = rounds.run(
            rounds.short,
            |round| {
                ours.forget()?;
                let took = load::random_blocks(&ours.root().join(BIG), round, RANDOM_READS, depth)?;
                Ok(took.micros_each() * depth as f64)
            },
            |round| {
                let took = pipeline::fetch(&mut connect()?, &places.random(round), depth)?;
                Ok(took.micros_each() * depth as f64)
            },
        )?;
        figure(name, "us", vec![], medians);
    }
    Ok(figures)
}

/// Where the files lie in the space, and so in the flat file.
struct Places {
    big: (u64, u64),
    small: Vec<(u64, u64)>,
}

impl Places {
    fn of(package: &Package, data: &Data) -> Result<Self> {
        let mut small = Vec::with_capacity(data.small().len());
        for extent in package.all_extents() {
            let extent = extent?;
            if extent.object.key.starts_with("small/") {
                small.push((extent.address, extent.bytes));
            }
        }
        let big = places::big(package)?;
        Ok(Self { big, small })
    }

    fn sequential(&self) -> Vec<(u64, u64)> {
        let (address, bytes) = self.big;
        let starts = (0..bytes).step_by(REQUEST_BYTES as usize);
        starts.map(|at| (address + at, REQUEST_BYTES.min(bytes - at))).collect()
    }

    fn small(&self, round: u64) -> Vec<(u64, u64)> {
        let mut requests = self.small.clone();
        Random(round).shuffle(&mut requests);
        requests
    }

    fn random(&self, round: u64) -> Vec<(u64, u64)> {
        let (address, bytes) = self.big;
        let mut requests: Vec<_> = (0..bytes / 4096).map(|block| (address + block * 4096, 4096)).collect();
        Random(round).shuffle(&mut requests);
        requests.truncate(RANDOM_READS);
        requests
    }
}
