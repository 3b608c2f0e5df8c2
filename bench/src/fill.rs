//! Filling a cache node over the bulk protocol: it has nothing, and several readers ask for a large object, each for a part of
//! it, while it fetches, computes checksums and stores. A plain download with the same concurrency beside it. No mount: a whole
//! epoch through one is in [`crate::cold`].

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Result, ensure};
use penstock::cache_folder::CacheFolder;
use penstock::local::{Local, Source};
use penstock_protocol::control::cache_node as wire;

use crate::CAPACITY_BYTES;
use crate::bulk_connection::{BulkConnection, Checksums};
use crate::cached::Cached;
use crate::data::{BIG, Data};
use crate::download::{self, download};
use crate::figure::{Figure, Goal, Reference};
use crate::load::{self, Took};
use crate::rounds::Rounds;
use crate::{pipeline, places};

/// Readers, and connections of the reference.
const READERS: usize = 8;
/// What a reader asks for.
const REQUEST_BYTES: u64 = 1 << 20;
/// ... and in flight: as the kernel reads ahead.
const DEPTH: usize = 2;

/// The figures of filling from `origin`, where the data is the bucket `bucket`.
///
/// # Errors
/// When a read fails.
pub fn figures(
    scratch: &Path,
    (origin, bucket, source, told): (SocketAddr, &str, &Source, &wire::Source),
    data: &Data,
    runtime: &tokio::runtime::Runtime,
    rounds: &Rounds<'_>,
) -> Result<Vec<Figure>> {
    let ours = |round: u64| -> Result<f64> {
        let folder = scratch.join(format!("fill-{round}"));
        let cache = CacheFolder::take(&folder, "bench")?;
        let local = runtime.block_on(Local::open(std::slice::from_ref(source), &cache, CAPACITY_BYTES))?;
        let cached = Cached {
            engine: local.engine(),
            package: local.package(),
            source: told.clone(),
        };
        let server = cached.serve(&folder, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, runtime)?;
        let requests = places::pieces(local.package(), REQUEST_BYTES)?;
        let readers = requests
            .chunks(requests.len().div_ceil(READERS))
            .map(|part| Ok((part, BulkConnection::new(server, local.package(), Checksums::Compared)?)));
        let (time, bytes) = load::together(readers.collect::<Result<_>>()?, |(part, mut connection)| {
            Ok(pipeline::fetch(&mut connection, part, DEPTH)?.bytes)
        })?;
        let took = Took {
            time,
            count: requests.len() as u64,
            bytes: bytes.into_iter().sum(),
        };
        ensure!(local.cached_bytes() >= took.bytes, "not everything was stored");
        std::fs::remove_dir_all(&folder)?;
        Ok(took.gib_per_second())
    };
    let parts: Vec<_> = download::parts(&format!("/{bucket}/{BIG}"), data.folder.join(BIG).metadata()?.len()).collect();
    let theirs = |_| Ok(download(origin, &parts, READERS)?.gib_per_second());
    let (value, reference) = rounds.run(rounds.long, ours, theirs)?;
    Ok(vec![Figure {
        name: "fill".into(),
        value,
        unit: "GiB/s",
        reference: Some(Reference {
            name: "plain download",
            value: reference,
        }),
        goals: vec![Goal::RatioAtLeast(0.9)],
    }])
}
