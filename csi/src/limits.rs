//! Every bound of the csi container, with its reason.

use std::time::Duration;

/// Descriptors of one FUSE connection, clones included: the mounter reads each on a thread of its own and gains nothing
/// from more.
pub const CONNECTION_DESCRIPTORS: usize = 4;

/// How far the kernel reads ahead on a revision. The mounter answers reads of at most 1 MiB.
pub const READ_AHEAD_KIB: u32 = 1024;

/// How long the mounter may take to fetch a package. It gives up after 20 s by itself; the kubelet gives an RPC two minutes.
pub const FETCH_DEADLINE: Duration = Duration::from_secs(30);

/// How long the mounter may take to begin serving a connection; it only starts threads.
pub const SERVE_DEADLINE: Duration = Duration::from_secs(10);

/// Pause before a mounter is handed again what it did not take. A pod that starts may wait for it.
pub const HAND_OVER_PAUSE: Duration = Duration::from_secs(1);

/// Pause after a mounter could not be accepted, which happens when the process has too many descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// How long the mounter may take to note that a revision is no longer served; nothing waits for it but an unpublish.
pub const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// Pause between two looks whether it is this container's turn.
pub const TURN_PAUSE: Duration = Duration::from_millis(100);

/// How long calls may go on after a successor came, twice: first those of the kubelet that wait for their answer, then those
/// it gave up. A fetch of a package takes up to [`FETCH_DEADLINE`].
pub const YIELD_MAX: Duration = Duration::from_secs(35);

/// How long after a mounter left, or this process began to listen, the kernel is asked once more to send again what is not
/// answered. A mounter that lives connects again within 200 ms.
pub const SETTLE_PAUSE: Duration = Duration::from_secs(1);

/// Peers that have connected and not yet said who they are, each with a thread.
pub const STRANGERS_MAX: usize = 16;

/// Mounters, and csi containers that were replaced, that are connected at the same time.
pub const LINKS_MAX: usize = 8;

/// How long a predecessor may take to hand over what it keeps, a packet for each mounted revision.
pub const INHERIT_DEADLINE: Duration = Duration::from_secs(10);

/// How often a mounter with which nothing is left to be done is asked whether it is there.
pub const PING_INTERVAL: Duration = Duration::from_secs(3);

/// How long it may take to answer that. Its supervisor kills it when it is silent for 10 s; this is for what hangs together
/// with its supervisor.
pub const PING_DEADLINE: Duration = Duration::from_secs(5);

/// How often it is looked whether a connection has had nobody who serves it for longer than its Dataset's patience.
pub const PATIENCE_INTERVAL: Duration = Duration::from_millis(500);

/// How often what mounters took is refused once more, where the kernel cannot resend: one that hangs may go on taking.
pub const REFUSAL_INTERVAL: Duration = Duration::from_millis(500);

/// How long the mounter may leave a letter in its queue before it counts as gone (stopped by a signal, say).
pub const SEND_DEADLINE: Duration = Duration::from_secs(2);

/// How long the kernel may take to mount an image: it asks the mounter for a few names. Then the connection is aborted.
pub const IMAGE_MOUNT_DEADLINE: Duration = Duration::from_secs(10);

/// Pauses after attempts to tell pods what became of their volumes.
pub const TELL_PAUSES: [Duration; 4] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::ZERO,
];

/// How long the API server may take to answer. The kubelet calls again.
pub const API_DEADLINE: Duration = Duration::from_secs(10);

/// Calls of statfs(2) that are under way at the same time: each may hold a thread for as long as nobody answers it.
pub const STATISTICS_AT_ONCE: usize = 8;

/// How long statfs(2) may take. A file system that does not answer must not hold the kubelet's only statistics thread.
pub const STATISTICS_DEADLINE: Duration = Duration::from_secs(5);

/// Pause between two looks for tier folders whose CacheRuntime is gone, for those that no unpublish noticed: a cache node
/// that had moved to another node. One list request each.
pub const TIER_SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

/// How soon the folders are looked at again when some could not be removed, or a pod still had them.
pub const TIER_SWEEP_RETRY: Duration = Duration::from_secs(10);

/// How long after SIGTERM the mounter's volume is waited for when Penstock is uninstalled: Kubernetes ends the mounter's pod
/// when its garbage collector comes to it, and the kubelet waits for the pod's sandbox. It takes some seconds.
pub const KEEPER_GONE_MAX: Duration = Duration::from_secs(50);

/// Pause between two looks.
pub const LEAVING_LOOK: Duration = Duration::from_millis(100);

/// How long calls may go on after SIGTERM, those that we wait for included; the pod's grace period is 60 s.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(55);

/// How long the process waits at its very end for a call that hangs in the kernel.
pub const HANGING_CALL_MAX: Duration = Duration::from_secs(2);

/// Files that are removed with the folder of a cache node: it has a socket, and one half made if the process died then.
pub const NEIGHBOUR_FILES_MAX: usize = 16;
