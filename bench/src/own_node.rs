//! The first touch of blocks that the cache node of the same node has, as in a cluster: the mounter reads them from files that
//! were handed to it. The bare FUSE loop of [`first_touch`] beside it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::Result;
use penstock_cache_node::server::neighbour;
use penstock_mounter::Neighbours;

use crate::cached::Cached;
use crate::data::{BIG, Data};
use crate::figure::Figure;
use crate::rounds::Rounds;
use crate::shown::Shown;
use crate::{first_touch, load};

/// More than the files of all stripes need.
const DESCRIPTORS_MAX: u64 = 1 << 20;

/// The figures of a mount beside a cache node where everything is cached.
///
/// # Errors
/// When a read fails.
pub fn figures(
    scratch: &Path,
    cached: &Cached<'_>,
    bare: &Shown,
    data: &Data,
    runtime: &tokio::runtime::Runtime,
    rounds: &Rounds<'_>,
) -> Result<Vec<Figure>> {
    let folder = scratch.join("own");
    let server = cached.serve(&folder, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, runtime)?;
    let neighbours = folder.join("neighbours");
    let beside = neighbours.join(Ipv4Addr::LOCALHOST.to_string());
    std::fs::create_dir_all(&beside)?;
    neighbour::serve(cached.engine.clone(), &beside.join("socket"))?;
    let neighbours = Neighbours::new(neighbours, DESCRIPTORS_MAX, runtime.handle().clone());
    let ours = Shown::new(
        &folder,
        cached.package,
        cached.reader(server, &neighbours),
        runtime.handle(),
    )?;
    // The files are handed over with the first reads.
    let mut everything = data.small_below(ours.root());
    everything.push(ours.root().join(BIG));
    load::epoch(&everything, 0, 1)?;
    first_touch::figures("own-node", &ours, bare, data, rounds)
}
