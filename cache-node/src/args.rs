//! The command line of the cache node.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use penstock_cache_node::TierConfig;

/// Caches blocks of datasets and serves them to the mounters of a cluster.
#[derive(Parser, Debug)]
#[command(version)]
pub(crate) struct Args {
    /// Where it stores: NAME=FOLDER:BYTES, for example ssd=/cache/ssd:10737418240.
    #[arg(long, env = "PENSTOCK_TIER", value_parser = tier)]
    pub(crate) tier: TierConfig,

    /// Where mounters connect (the bulk protocol).
    #[arg(long, env = "PENSTOCK_BULK_LISTEN", default_value = "0.0.0.0:7070")]
    pub(crate) bulk_listen: SocketAddr,

    /// Where the operator connects (gRPC).
    #[arg(long, env = "PENSTOCK_CONTROL_LISTEN", default_value = "0.0.0.0:7071")]
    pub(crate) control_listen: SocketAddr,

    /// Where the mounter of this node connects to read what is cached here from its files; nowhere if it is not given.
    #[arg(long, env = "PENSTOCK_NEIGHBOUR_SOCKET")]
    pub(crate) neighbour_socket: Option<PathBuf>,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "PENSTOCK_HEALTH_LISTEN", default_value = "0.0.0.0:7072")]
    pub(crate) health_listen: SocketAddr,
}

fn tier(text: &str) -> Result<TierConfig, String> {
    let expected = || format!("{text:?} is not NAME=FOLDER:BYTES, for example ssd=/cache/ssd:10737418240");
    let (name, rest) = text.split_once('=').ok_or_else(expected)?;
    let (path, capacity) = rest.rsplit_once(':').ok_or_else(expected)?;
    let capacity_bytes = capacity.parse().map_err(|_| expected())?;
    Ok(TierConfig {
        name: name.to_owned(),
        path: PathBuf::from(path),
        capacity_bytes,
    })
}
