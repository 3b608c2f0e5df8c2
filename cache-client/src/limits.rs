//! Every bound of the client, with its reason.

use std::time::Duration;

/// How long a connection may take. Within a cluster it takes under a millisecond; a lost SYN is sent again after 1 s.
pub const CONNECT_MAX: Duration = Duration::from_millis(1500);

/// How long a greeting of TLS may take: a round trip and two signatures. With the connection a hung node is left in less than 2 s.
pub const GREETING_MAX: Duration = Duration::from_millis(1500);

/// A peer that is silent for this long is asked for its ring on another connection, to tell hung from slow. Most origins
/// answer sooner, so most misses cost no probe.
pub const SILENCE_BEFORE_PROBE: Duration = Duration::from_secs(1);

/// How long a control request may take, with its connection. A node answers it from memory. With [`SILENCE_BEFORE_PROBE`]
/// a read leaves a hung node in less than 2 s.
pub const CONTROL_MAX: Duration = Duration::from_millis(700);

/// How long what a probe found counts for others that are silent too: with it, hundreds of reads that wait for one slow
/// origin cost four probes a second, and a hung node is still left in less than 2 s.
pub const VERDICT_VALID: Duration = Duration::from_millis(250);

/// How long an answer may take of a node that answers probes. The node itself gives up an origin after less, and says so.
pub const ANSWER_MAX: Duration = Duration::from_secs(120);

/// How long the bytes of an answer may pause though the node answers probes.
pub const BODY_SILENCE_MAX: Duration = Duration::from_secs(20);

/// Idle connections to one node: as many as reads of a busy session run at the same time.
pub const IDLE_LANES_MAX: usize = 16;

/// Nodes that are asked for one block before the client pauses: the owner and two that would own it next. More would
/// spread one block over the pool.
pub const OWNERS_ASKED_MAX: usize = 3;

/// How long a node that did not answer is left alone before it is probed, at first: a restart takes a few seconds, and its
/// cache is wanted. Doubled each time the probe fails, up to [`REST_MAX`].
pub const REST_MIN: Duration = Duration::from_secs(1);
/// See [`REST_MIN`]. Nobody waits for a probe, so it may be short enough to notice soon that a node came back.
pub const REST_MAX: Duration = Duration::from_secs(30);

/// How often whoever serves a revision says so. What is not said any more is forgotten after several of these, so one that is lost
/// costs nothing; and an hour of it is less traffic than one read.
pub const USE_TOLD_INTERVAL: Duration = Duration::from_secs(60);
/// Cache nodes that are told: one may restart, or be cut off from the operator.
pub const USE_TOLD_NODES: usize = 2;

/// First and largest pause after all owners failed.
pub const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);
/// See [`RETRY_PAUSE_MIN`].
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(2);
