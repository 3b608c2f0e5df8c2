//! Every bound of the reader, with its reason.

use std::time::Duration;

/// Connections at the same time; more wait to be accepted. The cache nodes of a pool keep one for each request that they have under
/// way; one that rests costs some KiB.
pub const CONNECTIONS_MAX: usize = 1024;

/// Parts of files that are sent at the same time. Each has a piece of half a MiB or two of them in memory, so all fit twice into the
/// pod's limit.
pub const READS_MAX: usize = 64;

/// Folders that are listed at the same time: each is walked by a thread of its own.
pub const LISTINGS_MAX: usize = 4;

/// How long a request waits for its turn before it is told to come back: shorter than the patience of cache nodes, which then ask
/// for less.
pub const TURN_WAIT_MAX: Duration = Duration::from_secs(5);

/// Seconds after which it may come back.
pub const RETRY_AFTER_SECONDS: u64 = 1;

/// Threads that wait for the volume: one for each of those, so that nobody waits for another's slow file.
pub const THREADS_MAX: usize = READS_MAX + LISTINGS_MAX;

/// Threads for everything else, which waits for nothing.
pub const SERVER_THREADS: usize = 2;

/// Length of what comes before a body. A key of 4,096 bytes has 12 KiB in a URL, and so has a folder.
pub const HEADER_BYTES_MAX: usize = 32 << 10;

/// Headers of a request: clients send six.
pub const HEADERS_MAX: usize = 32;

/// How long a request's headers may take, and a connection rest: longer than clients keep those that rest, which is 15 s.
pub const HEADER_MAX: Duration = Duration::from_secs(30);

/// A peer that takes nothing of what was sent for so long is gone.
pub const STALL_MAX: Duration = Duration::from_secs(60);

/// How often a listing says that it still walks: less than cache nodes wait in silence, which is 20 s.
pub const LISTING_PULSE: Duration = Duration::from_secs(5);

/// Pause after a connection could not be accepted, as when there are no descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long what is under way may take after the process was asked to end; the kubelet waits a little longer.
pub const ENDING_MAX: Duration = Duration::from_secs(10);
