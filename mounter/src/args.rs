//! The command line of the mounter.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

/// Answers the kernel's reads of cold blocks on one node. Needs no privilege: the csi container hands the connections over.
#[derive(Parser, Debug)]
#[command(version)]
pub(crate) struct Args {
    /// The socket of the csi container.
    #[arg(long, env = "PENSTOCK_KEEPER_SOCKET", default_value = "/keeper/socket")]
    pub(crate) keeper_socket: PathBuf,

    /// Below it csi puts a folder with the socket of each cache node of this node.
    #[arg(long, env = "PENSTOCK_NEIGHBOURS", default_value = "/keeper/neighbours")]
    pub(crate) neighbours: PathBuf,

    /// Folder with tls.crt, tls.key and ca.crt: cache nodes are read over TLS only, and only if they have a certificate of that
    /// authority for the name by which they are reached. Read again when it changes.
    #[arg(long, env = "PENSTOCK_TLS", value_name = "FOLDER")]
    pub(crate) tls: Option<PathBuf>,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "PENSTOCK_HEALTH_LISTEN", default_value = "0.0.0.0:7082")]
    pub(crate) health_listen: SocketAddr,
}
