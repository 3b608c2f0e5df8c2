//! Every bound of the client, with its reason.

use std::time::Duration;

/// How long a connection may take. Within a cluster it takes under a millisecond, or nobody is there.
pub const CONNECT_MAX: Duration = Duration::from_secs(2);

/// How long an answer may take. The node itself gives up an origin after less, and says so.
pub const ANSWER_MAX: Duration = Duration::from_secs(120);

/// How long the bytes of an answer may pause.
pub const BODY_SILENCE_MAX: Duration = Duration::from_secs(20);

/// Idle connections to one node: as many as reads of a busy session run at the same time.
pub const IDLE_LANES_MAX: usize = 16;

/// Nodes that are asked for one block before the client pauses: the owner and two that would own it next. More would
/// spread one block over the pool.
pub const OWNERS_ASKED_MAX: usize = 3;

/// A node that did not answer is asked last for this long, so that not every read pays for it.
pub const DEAD_MEMBER_PAUSE: Duration = Duration::from_secs(3);

/// First and largest pause after all owners failed.
pub const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);
/// See [`RETRY_PAUSE_MIN`].
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(2);
