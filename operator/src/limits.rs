//! Every bound of the operator, with its reason.

use std::time::Duration;

/// A leader that could not renew for this long has lost; client-go's default.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long leaves: earlier than anybody else may take the lease, with time to end and for
/// clocks that differ.
pub const LEASE_HOLD: Duration = Duration::from_secs(12);
/// How often a leader renews, and how long a try may take; two tries without an answer fit into the time that it holds.
pub const LEASE_RENEW_INTERVAL: Duration = Duration::from_secs(3);

/// Builds at the same time: each lists a whole origin and keeps a cache node busy.
pub const BUILDS_MAX: usize = 4;
/// How long a build may take. A million objects take minutes to list from a slow origin.
pub const BUILD_MAX: Duration = Duration::from_secs(3600);
/// How long a build counts among these: one that hangs, or lists a huge origin, must not keep others from their turn.
pub const BUILD_SLOT_MAX: Duration = Duration::from_secs(300);
/// Pause after a failed build, doubled with each failure ...
pub const BUILD_PAUSE_MIN: Duration = Duration::from_secs(2);
/// ... up to this: short enough that a mended Secret or endpoint heals while somebody watches.
pub const BUILD_PAUSE_MAX: Duration = Duration::from_secs(15);
/// How long what a notification named waits for more: writers put many objects in a row.
pub const NOTIFIED_DELAY: Duration = Duration::from_secs(2);
/// Pause after a build before what was told meanwhile is looked at: each revision costs a commit, a mount for each node, and a place
/// among the older ones.
pub const NOTIFIED_PAUSE: Duration = Duration::from_secs(5);
/// Parts of its sources that a Dataset remembers as changed: each costs a request of listing.
pub const MARKS_MAX: usize = 256;
/// Bytes of each; a shorter beginning of a key covers more, never less. Stores have keys of up to 1,024.
pub const MARK_BYTES_MAX: usize = 1024;
/// Bytes of a notification: SNS and EventBridge send up to 256 KiB, Event Grid up to 1 MiB.
pub const NOTIFICATION_BYTES_MAX: usize = 1 << 20;
/// How long the body of one may take.
pub const NOTIFICATION_BODY_MAX: Duration = Duration::from_secs(10);
/// How long the headers of one may take: connections that say nothing must not keep others out for long.
pub const NOTIFICATION_HEADER_MAX: Duration = Duration::from_secs(5);
/// What comes before its body: gateways add some KiB.
pub const NOTIFICATION_HEADER_BYTES_MAX: usize = 32 << 10;
/// Headers of one.
pub const NOTIFICATION_HEADERS_MAX: usize = 64;
/// Notifications whose bodies are received or read at the same time; more wait, as long as a body may take. They take 16 MiB, and the one
/// that is read 50 MiB at the worst.
pub const NOTIFICATION_BODIES_MAX: usize = 16;
/// Connections of those who notify, at the same time; more wait to be accepted. Each may have some hundred KiB that are received and
/// not asked for yet, so they take 50 MiB at the worst.
pub const NOTIFIERS_MAX: usize = 128;
/// How long one of them lasts at the most, so that nobody who reads or sends slowly keeps a place.
pub const NOTIFIER_MAX: Duration = Duration::from_secs(120);
/// Pause after a connection could not be accepted, as when there are no descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// When somebody with a wrong token is told so: later than a Secret takes to look up, so that it does not say whether there is one.
pub const REFUSAL_DELAY: Duration = Duration::from_millis(500);
/// How many are told so at the same time; others are to come back, which they are told as late.
pub const REFUSALS_MAX: usize = 32;
/// Shortest token: 16 random characters are as many as nobody can guess.
pub const TOKEN_BYTES_MIN: usize = 16;
/// How long a token is remembered, and that there is none, or that the API server did not say: who changes one waits so long. A look-up
/// takes no longer.
pub const TOKEN_KEPT: Duration = Duration::from_secs(10);
/// Seconds after which whoever is sent away may come back.
pub const RETRY_AFTER_SECONDS: &str = "2";
/// Nodes that hold a package before it is committed.
pub const PACKAGE_COPIES: usize = 2;
/// Older revisions that stay whether or not anybody says that he uses them: for mounters of an earlier release, which do not say it, and
/// for a bucket that changes every few seconds, because a pod mounts the revision that was the newest up to two minutes before.
pub const OLDER_REVISIONS_MIN: usize = 31;
/// Older revisions at the most, those that pods mount too: 17 KiB of a Dataset, of which an object of the API server may have 1.5 MiB,
/// and a package for each on each cache node.
pub const OLDER_REVISIONS_MAX: usize = 256;
/// How long a revision stays after the last report that a pod mounts it: cache nodes and mounters may restart, be upgraded, or be cut
/// off from each other or from the operator for so long.
pub const REVISION_GRACE: Duration = Duration::from_secs(3600);
/// How long a pod may take from the choice of its revision until its mounter has told it, in which mounters also tell cache nodes
/// that come back: kubelets give up after two minutes, mounters tell each minute.
pub const REVISION_STARTING_MAX: Duration = Duration::from_secs(600);

/// Sources of older revisions that cache nodes are told beside those of the spec: more than anybody takes away while pods run. With
/// authorities of 16 KiB each they still fit into an object of the API server, beside those of the spec.
pub const FORMER_SOURCES_MAX: usize = 16;
/// How long a cache node that is away may come back with a revision that all others miss, before it is built anew: a restart
/// takes seconds, a whole cache is expensive.
pub const REVISION_PATIENCE: Duration = Duration::from_secs(60);

/// Pause between attempts to reach a cache node.
pub const LINK_PAUSE: Duration = Duration::from_secs(1);
/// How long connecting to a cache node may take.
pub const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How long a new leader may take until it says that nobody serves: links need a reconcile and a connection first.
pub const SETTLING_MAX: Duration = Duration::from_secs(15);
/// Reports of a pool wake its objects this often at most: they come once a second from each node that is read from.
pub const REPORT_PAUSE: Duration = Duration::from_secs(1);
/// How often a cache node that sends nothing is asked whether it is there: a machine that crashed closes no connection.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long its answer may take before the connection is given up; a busy network answers within milliseconds.
pub const KEEP_ALIVE_MAX: Duration = Duration::from_secs(5);

/// How often Secrets are looked at again: there is no right to watch all of them.
pub const SECRET_LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// How soon something that somebody else has to do first is looked at again.
pub const WAIT_INTERVAL: Duration = Duration::from_secs(5);
/// How soon something is looked at again whose end a watch tells, where a message may name fewer pods by then, or which is
/// somebody else's and not watched: while it is in the way the API server is asked no more often than this.
pub const BLOCKED_LOOK_INTERVAL: Duration = Duration::from_secs(15);
/// Pause after a reconcile failed.
pub const ERROR_PAUSE: Duration = Duration::from_secs(3);
/// Names in a message: enough to act upon.
pub const NAMES_SHOWN_MAX: usize = 5;
/// Bytes of the text of an event; the API server refuses more than 1,024.
pub const EVENT_NOTE_BYTES_MAX: usize = 1000;

/// Memory of a cache node that has no tier in memory, as a request: buffers and presence of a quiet one.
pub const MEMORY_REQUEST: &str = "128Mi";
/// Memory of a busy cache node without its tier, as it divides it (`cache-node/src/memory.rs`). What a tier in memory comes on top
/// of.
pub const MEMORY_OVERHEAD_BYTES: u64 = 1 << 30;
/// The part of it that the kernel takes for sockets and open files.
pub const KERNEL_MEMORY_PART: u64 = 8;
/// With less a cache node does not begin.
pub const MEMORY_BYTES_MIN: u64 = 64 << 20;
/// What a tier holds beside the blocks that its capacity counts: packages, a hundred bytes a file and revision ...
pub const TIER_RESERVE_BYTES: u64 = 256 << 20;
/// ... and one byte for so many of its blocks': 66 KiB of presence and checksums for each 64 MiB, rounded up.
pub const TIER_BYTES_PER_RESERVED: u64 = 512;

/// What a reader of a claim asks of its node: it mostly waits for its volume and the network.
pub const READER_CPU_REQUEST: &str = "50m";
/// Its memory when little is read ...
pub const READER_MEMORY_REQUEST: &str = "64Mi";
/// ... and when as much is read at the same time as it lets (`reader/src/limits.rs`), with room for the kernel's part.
pub const READER_MEMORY_LIMIT: &str = "256Mi";
/// Seconds that it has for its end: those that it takes for what is under way, and some.
pub const READER_ENDING_SECONDS: u32 = 15;
/// Random bytes of a reader's token: as many as nobody can guess.
pub const READER_TOKEN_BYTES: usize = 32;
