//! Every bound of the mounter, with its reason.

use std::time::Duration;

/// Largest read that the kernel sends: 256 pages, the default of `fs.fuse.max_pages_limit`.
pub const READ_BYTES_MAX: usize = penstock_mount::fuse::READ_BYTES_MAX;

/// Threads that read requests, each on a clone of the connection. A hit costs some 10 µs of system time for 4 KiB and
/// 300 µs for 1 MiB; more threads than this gained nothing on 2 to 8 cores, and a node may have dozens of revisions.
pub const SESSION_THREADS_MAX: usize = 4;

/// Reads of one session that wait for a cache node or an origin at the same time. The kernel sends at most
/// [`BACKGROUND_REQUESTS_MAX`] asynchronous ones; each holds a buffer of 1 MiB while it waits.
pub const MISSES_IN_FLIGHT_MAX: usize = 64;

/// Asynchronous requests that the kernel keeps in flight (`max_background`); its own default of 12 starves a cold epoch
/// with many readers.
pub const BACKGROUND_REQUESTS_MAX: u16 = 64;

/// Idle reply buffers that a process keeps, 1 MiB each: one for each thread of two busy sessions.
pub const IDLE_BUFFERS_MAX: usize = 8;

/// Bytes of the buffer into which a request is read. The kernel asks for at least 8 KiB; nothing that it sends to a
/// read-only file system without write support is larger than a batch of FORGETs of a page.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;

/// How long names and attributes stay valid in the kernel: the files of a space never change.
pub const ATTRIBUTES_VALID: Duration = Duration::from_secs(365 * 24 * 3600);

/// At most one log line about failed reads of a session in this time; the ones between are counted.
pub const FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Pause before the mounter connects again to a csi container that went away: short, because a starting pod waits for it.
pub const KEEPER_RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// Stripes of cache nodes of the same node whose files are open, in all sessions: as many as a cache node keeps open, two
/// descriptors each, for 64 GiB of data in use.
pub const NEIGHBOUR_STRIPES_MAX: usize = 1024;

/// Tiers of a stripe whose files a cache node may hand over: as many as it may have.
pub const NEIGHBOUR_TIERS_MAX: usize = 4;

/// Cache nodes of the same node that are known: a node has one of each CacheRuntime, rarely more.
pub const NEIGHBOURS_MAX: usize = 1024;

/// How often it is looked which cache nodes are on this node; until then one that is new is read over the network.
pub const NEIGHBOURS_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a cache node of the same node may take to connect or to answer. Only its own thread waits for it.
pub const NEIGHBOUR_PATIENCE: Duration = Duration::from_secs(2);

/// Pause of a session after a cache node of the same node did not have a stripe, or did not answer.
pub const NEIGHBOUR_PAUSE: Duration = Duration::from_millis(100);

/// Pause after it could not be told what was read: it is away, and starts again within seconds.
pub const NEIGHBOUR_SILENCE: Duration = Duration::from_secs(1);

/// Looks into files of the same stripe in vain, one after the other, before they are let go of and asked for again: the stripe
/// may be another cache node's by now. A cold stripe has as many without a fault, and to ask again costs 50 µs.
pub const NEIGHBOUR_MISSES_MAX: u32 = 256;

/// Threads of a session that may look into files while none of them comes to an end.
pub const LOOKS_MAX: usize = SESSION_THREADS_MAX - 1;

/// ... for so long. A look takes 2 to 300 µs.
pub const LOOK_MAX: Duration = Duration::from_millis(50);

/// How often a cache node of the same node hears what was read: a fraction of the time in which a fast reader uses half of a
/// window that was fetched ahead of it.
pub const USED_INTERVAL: Duration = Duration::from_millis(5);

/// Ranges of which it hears at once; 64 take 1.5 KiB.
pub const USED_RANGES_MAX: usize = 64;

/// How long a package is asked for before csi is told to try again; the kubelet gives an RPC two minutes.
pub const FETCH_DEADLINE: Duration = Duration::from_secs(20);

/// How often a session looks whether another mounter of its connection has died, where the kernel cannot send again what that
/// one took. Readers wait so long at most; it costs one system call for each that lives.
pub const ADOPT_INTERVAL: Duration = Duration::from_millis(500);
