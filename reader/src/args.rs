//! The command line of the reader.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

/// Serves the files of a mounted volume to cache nodes.
#[derive(Parser, Debug)]
#[command(version)]
pub(crate) struct Args {
    /// Where the volume is mounted.
    #[arg(long, env = "PENSTOCK_VOLUME", default_value = "/volume")]
    pub(crate) volume: PathBuf,

    /// The folder in it that is served. With it, `place` is that folder's path on the node, and folders are asked for by theirs.
    #[arg(long, env = "PENSTOCK_FOLDER")]
    pub(crate) folder: Option<String>,

    /// What it is called in sentences for people.
    #[arg(long, env = "PENSTOCK_PLACE", default_value = "the volume")]
    pub(crate) place: String,

    /// File with the token that has to be said to read.
    #[arg(long, env = "PENSTOCK_TOKEN_FILE", default_value = "/token/token")]
    pub(crate) token_file: PathBuf,

    /// Where cache nodes connect; /healthz is there too.
    #[arg(long, env = "PENSTOCK_LISTEN", default_value = "0.0.0.0:7074")]
    pub(crate) listen: SocketAddr,
}
