//! The command line of the csi container.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use penstock_mount::forms::Wish;

/// Whether the kernel is made to send again what a mounter left unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Resend {
    /// If it can.
    Auto,
    /// Never.
    Off,
}

/// Mounts Penstock's volumes for the pods of one node. The only privileged part of Penstock.
#[derive(Parser, Debug)]
#[command(version)]
pub(crate) struct Args {
    /// Name of the node in Kubernetes.
    #[arg(long, env = "PENSTOCK_NODE_NAME")]
    pub(crate) node_name: String,

    /// Namespace of this pod.
    #[arg(long, env = "PENSTOCK_NAMESPACE")]
    pub(crate) namespace: String,

    /// Service account of the mounter's pods, in the same namespace.
    #[arg(long, env = "PENSTOCK_MOUNTER_SERVICE_ACCOUNT", default_value = "penstock-mounter")]
    pub(crate) mounter_service_account: String,

    /// User and group that the mounter runs as.
    #[arg(long, env = "PENSTOCK_MOUNTER_UID", default_value_t = 65533)]
    pub(crate) mounter_uid: u32,

    /// User and group that cache nodes run as.
    #[arg(long, env = "PENSTOCK_CACHE_NODE_UID", default_value_t = 65532)]
    pub(crate) cache_node_uid: u32,

    /// The kubelet's folder, at the same path in this container, shared both ways.
    #[arg(long, env = "PENSTOCK_KUBELET_ROOT", default_value = "/var/lib/kubelet")]
    pub(crate) kubelet_root: PathBuf,

    /// Folder of the node for images and the folders of cache nodes; on ext4, xfs or btrfs.
    #[arg(long, env = "PENSTOCK_STATE_DIR", default_value = "/var/lib/penstock")]
    pub(crate) state_dir: PathBuf,

    /// Folder for mounts that only this container sees.
    #[arg(long, env = "PENSTOCK_PRIVATE_DIR", default_value = "/run/penstock")]
    pub(crate) private_dir: PathBuf,

    /// How images are mounted: auto, file (EROFS from files, Linux 6.12) or loop (EROFS on loop devices, Linux 5.16).
    #[arg(long, env = "PENSTOCK_FORM", default_value = "auto")]
    pub(crate) form: Wish,

    /// For tests: auto, or off, as if the kernel could not send requests again (before Linux 6.9).
    #[arg(long, env = "PENSTOCK_RESEND", default_value = "auto", hide = true)]
    pub(crate) resend: Resend,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "PENSTOCK_HEALTH_LISTEN", default_value = "0.0.0.0:7081")]
    pub(crate) health_listen: SocketAddr,
}
