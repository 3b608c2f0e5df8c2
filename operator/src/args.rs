//! The command line of the operator.

use std::net::SocketAddr;

use clap::{Args as ClapArgs, Parser, Subcommand};
use ipnet::IpNet;

/// Turns Datasets and CacheRuntimes into cache nodes, revisions and volumes.
#[derive(Parser, Debug)]
#[command(version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Runs the controllers, when it is this process' turn.
    Run(Box<Run>),
    /// Fails and names what is in use while there are Datasets or CacheRuntimes: the chart's pre-delete hook.
    CheckUninstall,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct Run {
    /// Image of the cache nodes.
    #[arg(long, env = "PENSTOCK_IMAGE")]
    pub(crate) image: String,

    /// Pull policy of that image.
    #[arg(long, env = "PENSTOCK_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    pub(crate) image_pull_policy: String,

    /// Secrets to pull it with, in the namespaces of the CacheRuntimes.
    #[arg(long, env = "PENSTOCK_IMAGE_PULL_SECRETS", value_delimiter = ',')]
    pub(crate) image_pull_secrets: Vec<String>,

    /// Domain of the cluster's names.
    #[arg(long, env = "PENSTOCK_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub(crate) cluster_domain: String,

    /// Addresses of the cluster (CIDRs) beside those that the API server tells: what pods have from some network plugins.
    #[arg(long, env = "PENSTOCK_CLUSTER_NETWORKS", value_delimiter = ',')]
    pub(crate) cluster_networks: Vec<IpNet>,

    /// Folders of nodes that CacheRuntimes may let their Datasets read, with all that is in them.
    #[arg(long, env = "PENSTOCK_HOST_PATHS", value_delimiter = ',')]
    pub(crate) host_paths: Vec<String>,

    /// Namespace of the operator.
    #[arg(long, env = "POD_NAMESPACE")]
    pub(crate) namespace: String,

    /// Name of this process in the election of a leader.
    #[arg(long, env = "POD_NAME")]
    pub(crate) identity: String,

    /// What is logged, here and by the cache nodes.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub(crate) log: String,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "PENSTOCK_HEALTH_LISTEN", default_value = "0.0.0.0:7092")]
    pub(crate) health_listen: SocketAddr,

    /// Where notifications of changed objects are taken, over plain HTTP; without it nowhere.
    #[arg(long, env = "PENSTOCK_NOTIFICATIONS_LISTEN")]
    pub(crate) notifications_listen: Option<SocketAddr>,
}
