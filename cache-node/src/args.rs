//! The command line of the cache node.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use penstock_cache_node::TierConfig;
use penstock_cache_node::memory::Budget;

/// Caches blocks of datasets and serves them to the mounters of a cluster.
#[derive(Parser, Debug)]
#[command(version)]
pub(crate) struct Args {
    /// Where it stores, the fastest first: NAME=FOLDER:BYTES, for example ssd=/cache/ssd:10737418240; or NAME=FOLDER, which
    /// keeps what it has and takes nothing before the operator has said how much.
    #[arg(long = "tier", env = "PENSTOCK_TIERS", value_parser = tier, value_delimiter = ',', required = true)]
    pub(crate) tiers: Vec<TierConfig>,

    /// What it may take of memory, in bytes, beside tiers in memory.
    #[arg(long, env = "PENSTOCK_MEMORY", value_name = "BYTES", value_parser = memory, default_value = DEFAULT_MEMORY)]
    pub(crate) memory: Budget,

    /// Where mounters connect (the bulk protocol).
    #[arg(long, env = "PENSTOCK_BULK_LISTEN", default_value = "0.0.0.0:7070")]
    pub(crate) bulk_listen: SocketAddr,

    /// Folder with tls.crt, tls.key and ca.crt: mounters and other cache nodes are answered over TLS only, and only if they have
    /// a certificate of that authority. Read again when it changes.
    #[arg(long, env = "PENSTOCK_TLS", value_name = "FOLDER")]
    pub(crate) tls: Option<PathBuf>,

    /// Where the operator connects (gRPC).
    #[arg(long, env = "PENSTOCK_CONTROL_LISTEN", default_value = "0.0.0.0:7071")]
    pub(crate) control_listen: SocketAddr,

    /// Where `penstock cache` and `penstock explain` connect (gRPC).
    #[arg(long, env = "PENSTOCK_INSPECTION_LISTEN", default_value = "0.0.0.0:7073")]
    pub(crate) inspection_listen: SocketAddr,

    /// Where the mounter of this node connects to read what is cached here from its files; nowhere if it is not given.
    #[arg(long, env = "PENSTOCK_NEIGHBOUR_SOCKET")]
    pub(crate) neighbour_socket: Option<PathBuf>,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "PENSTOCK_HEALTH_LISTEN", default_value = "0.0.0.0:7072")]
    pub(crate) health_listen: SocketAddr,
}

/// 1 GiB.
const DEFAULT_MEMORY: &str = "1073741824";

fn memory(text: &str) -> Result<Budget, String> {
    let bytes = text
        .parse()
        .map_err(|_| format!("{text:?} is no number of bytes: write one like {DEFAULT_MEMORY}"))?;
    Budget::new(bytes).map_err(|error| error.to_string())
}

fn tier(text: &str) -> Result<TierConfig, String> {
    let expected =
        || format!("{text:?} is not NAME=FOLDER or NAME=FOLDER:BYTES, for example ssd=/cache/ssd:10737418240");
    let (name, rest) = text.split_once('=').ok_or_else(expected)?;
    let (path, capacity_bytes) = match rest.rsplit_once(':') {
        None => (rest, None),
        Some((path, capacity)) => (path, Some(capacity.parse().map_err(|_| expected())?)),
    };
    if name.is_empty() || path.is_empty() {
        return Err(expected());
    }
    Ok(TierConfig {
        name: name.to_owned(),
        path: PathBuf::from(path),
        capacity_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_memory_is_a_number_of_bytes_that_suffices() {
        assert_eq!(memory(DEFAULT_MEMORY), Ok(Budget::default()));
        for (text, says) in [
            ("1Gi", "write one like"),
            ("-1", "write one like"),
            ("1000", "is too small"),
        ] {
            let error = memory(text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_tier_has_a_name_a_folder_and_perhaps_a_capacity() {
        let parsed = |text| tier(text).map(|tier| (tier.name, tier.path, tier.capacity_bytes));
        assert_eq!(parsed("ssd=/c/s:17"), Ok(("ssd".into(), "/c/s".into(), Some(17))));
        assert_eq!(parsed("ssd=/c/s"), Ok(("ssd".into(), "/c/s".into(), None)));
        for text in ["", "/c/s:17", "=/c:1", "ssd=", "ssd=:1", "ssd=/c:many"] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains("NAME=FOLDER:BYTES"), "{error}");
        }
    }
}
