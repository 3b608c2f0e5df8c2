//! Filling a cache node that has nothing: several readers ask for a large object, each for a part of it, and the node fetches,
//! computes checksums and stores before it answers. A plain download with the same concurrency beside it.
//!
//! The goal is for the engine. Over the bulk protocol the bytes travel once more, and all of that on one machine; whole epochs
//! through a mount are in [`crate::cold`].

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use penstock::cache_folder::CacheFolder;
use penstock::local::{Local, Source};
use penstock_buffer::Buffer;
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::geometry::BlockRange;
use penstock_revision::BuildOptions;

use crate::CAPACITY_BYTES;
use crate::bulk_connection::BulkConnection;
use crate::cached::Cached;
use crate::data::{BIG, Data};
use crate::download::{self, download};
use crate::figure::{Figure, Goal, Reference};
use crate::load::{self, Took, buffer};
use crate::pipeline::{self, Checksums, Request};
use crate::places;
use crate::rounds::Rounds;

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
    let whole: Vec<_> = download::parts(&format!("/{bucket}/{BIG}"), data.folder.join(BIG).metadata()?.len()).collect();
    let mut figures = Vec::new();
    let plain = |_: &Path| download(origin, &whole, READERS);
    // In new pages of the kernel, as the cache.
    let to_file = |path: &Path| {
        let took = download::download_to(&File::create(path)?, origin, &whole, READERS)?;
        std::fs::remove_file(path)?;
        Ok(took)
    };
    let references: [(_, Beside<'_>); 2] = [("plain download", &plain), ("download to a file", &to_file)];
    for (name, goals, read, (beside, theirs)) in [
        (
            "fill",
            vec![Goal::RatioAtLeast(0.9)],
            through_engine as Read,
            references[0],
        ),
        ("fill-beside-a-file", vec![], through_engine, references[1]),
        ("fill-over-protocol", vec![], over_protocol, references[0]),
    ] {
        let ours = |round: u64| -> Result<f64> {
            let folder = scratch.join(format!("{name}-{round}"));
            let cache = CacheFolder::take(&folder, "bench")?;
            let local = runtime.block_on(Local::open(
                std::slice::from_ref(source),
                BuildOptions::default(),
                &cache,
                CAPACITY_BYTES,
            ))?;
            let cached = Cached {
                engine: local.engine(),
                package: local.package(),
                source: told.clone(),
            };
            let requests = places::pieces(local.package(), REQUEST_BYTES)?;
            let took = read(&folder, &cached, &requests, runtime)?;
            ensure!(local.cached_bytes() >= took.bytes, "not everything was stored");
            std::fs::remove_dir_all(&folder)?;
            Ok(took.gib_per_second())
        };
        let theirs = |round: u64| Ok(theirs(&scratch.join(format!("{name}-{round}-file")))?.gib_per_second());
        let (value, reference) = rounds.run(rounds.long, ours, theirs)?;
        figures.push(Figure {
            name: name.into(),
            value,
            unit: "GiB/s",
            reference: Some(Reference {
                name: beside,
                value: reference,
            }),
            goals,
        });
    }
    Ok(figures)
}

/// A reference, which may use a path.
type Beside<'a> = &'a dyn Fn(&Path) -> Result<Took>;

/// Reads all of what is asked for, by [`READERS`].
type Read = fn(&Path, &Cached<'_>, &[Request], &tokio::runtime::Runtime) -> Result<Took>;

fn through_engine(
    _: &Path,
    cached: &Cached<'_>,
    requests: &[Request],
    runtime: &tokio::runtime::Runtime,
) -> Result<Took> {
    let (engine, revision) = (cached.engine, cached.package.id());
    // As many as over the protocol.
    let buffers: fn() -> [Buffer; DEPTH] = || std::array::from_fn(|_| buffer(REQUEST_BYTES as usize));
    let readers = parts(requests).map(|part| (part, buffers())).collect();
    let (time, bytes) = load::together(readers, |(part, [one, other])| {
        let next = AtomicUsize::new(0);
        let read = async |mut buffer: Buffer| -> Result<u64> {
            let mut bytes = 0;
            while let Some((address, length)) = part.get(next.fetch_add(1, Ordering::Relaxed)) {
                let range = BlockRange::new(*address, *length)?;
                engine.read(&revision, range, &mut buffer, None).await?;
                bytes += length;
            }
            Ok(bytes)
        };
        let (one, other) = runtime.block_on(async { tokio::try_join!(read(one), read(other)) })?;
        Ok(one + other)
    })?;
    Ok(took(time, requests, &bytes))
}

fn over_protocol(
    folder: &Path,
    cached: &Cached<'_>,
    requests: &[Request],
    _: &tokio::runtime::Runtime,
) -> Result<Took> {
    // Ends with the round: a stripe that somebody has open is written to the disk though it is gone from its folder.
    let serving = tokio::runtime::Runtime::new()?;
    let server = cached.serve(folder, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, &serving)?;
    let connect = |part| Ok((part, BulkConnection::new(server, cached.package, Checksums::Computed)?));
    let readers = parts(requests).map(connect).collect::<Result<_>>()?;
    let (time, bytes) = load::together(readers, |(part, mut connection)| {
        Ok(pipeline::fetch(&mut connection, part, DEPTH)?.bytes)
    })?;
    Ok(took(time, requests, &bytes))
}

/// What each reader asks for.
fn parts(requests: &[Request]) -> impl Iterator<Item = &[Request]> {
    requests.chunks(requests.len().div_ceil(READERS))
}

fn took(time: Duration, requests: &[Request], bytes: &[u64]) -> Took {
    Took {
        time,
        count: requests.len() as u64,
        bytes: bytes.iter().sum(),
    }
}
