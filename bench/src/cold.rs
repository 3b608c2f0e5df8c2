//! The first epoch, from the bucket: nothing is cached anywhere. Plain downloads with the same concurrency beside it.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use penstock::cache_folder::CacheFolder;
use penstock::local::{Local, Source};
use penstock_cache_node::report::Counters;
use penstock_revision::BuildOptions;

use crate::CAPACITY_BYTES;
use crate::data::{BIG, Data};
use crate::download::{self, Part, download};
use crate::figure::{Figure, Goal, Reference, median};
use crate::load;
use crate::random::Random;
use crate::rounds::Rounds;
use crate::shown::Shown;

/// Readers, and connections of the reference.
const READERS: usize = 8;

/// The figures of an epoch over the small files and the big one, from `origin`, where the data is the bucket `bucket`.
///
/// # Errors
/// When a read fails.
pub fn figures(
    scratch: &Path,
    (origin, bucket, sources): (SocketAddr, &str, &[Source]),
    data: &Data,
    runtime: &tokio::runtime::Runtime,
    rounds: &Rounds<'_>,
) -> Result<Vec<Figure>> {
    let mut pulled = Vec::new();
    let ours = |round: u64| -> Result<f64> {
        let folder = scratch.join(format!("cold-{round}"));
        let cache = CacheFolder::take(&folder, "bench")?;
        let local = runtime.block_on(Local::open(sources, BuildOptions::default(), &cache, CAPACITY_BYTES))?;
        let shown = Shown::new(
            &folder,
            local.package(),
            local.reader(crate::READ_TIMEOUT),
            runtime.handle(),
        )?;
        let mut files = data.small_below(shown.root());
        files.push(shown.root().join(BIG));
        let took = load::epoch(&files, round, READERS)?;
        pulled.push(Counters::get(&local.engine().counters().origin_bytes) as f64 / took.bytes as f64);
        drop(shown);
        std::fs::remove_dir_all(&folder)?;
        Ok(took.gib_per_second())
    };
    let parts = parts(bucket, data)?;
    let theirs = |round: u64| -> Result<f64> {
        let mut parts = parts.clone();
        Random(round).shuffle(&mut parts);
        Ok(download(origin, &parts, READERS)?.gib_per_second())
    };
    let (value, reference) = rounds.run(rounds.long, ours, theirs)?;
    Ok(vec![
        Figure {
            name: "cold-epoch".into(),
            value,
            unit: "GiB/s",
            reference: Some(Reference {
                name: "plain download",
                value: reference,
            }),
            goals: vec![Goal::RatioAtLeast(0.9)],
        },
        Figure {
            name: "cold-epoch-origin-bytes".into(),
            value: median(pulled),
            unit: "x",
            reference: None,
            goals: vec![Goal::AtLeast(1.0), Goal::AtMost(1.0)],
        },
    ])
}

fn parts(bucket: &str, data: &Data) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for key in data.small().iter().map(String::as_str).chain([BIG]) {
        let length = std::fs::metadata(data.folder.join(key))?.len();
        parts.extend(download::parts(&format!("/{bucket}/{key}"), length));
    }
    Ok(parts)
}
