//! The cache node: an engine that can be called without a socket, and the server around it.
//!
//! ```text
//!  bulk server / mounter in the same process
//!        │ read(revision, range)
//!        ▼
//!  engine ── present? ──► store: stripes with a checksum per block
//!    │ missing
//!    ▼
//!  plan (how much to fetch) ──► in flight (one fetch per block, many waiters) ──► origin
//! ```
//!
//! The engine must not know Kubernetes, gRPC or sockets. A fault of the cache is never a read error: it is a miss, a
//! warning and a counter.

pub mod builder;
pub mod engine;
mod evictor;
mod fetch;
mod follow;
mod inflight;
mod keeping;
pub mod limits;
pub mod origin;
pub mod packages;
mod plan;
pub mod report;
pub mod server;
mod store;
mod walk;
mod walker;

pub use engine::{Dataset, Engine, EngineConfig, OpenError, ReadError, TierConfig, TryRead};
