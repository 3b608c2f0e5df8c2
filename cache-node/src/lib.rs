//! The cache node: an engine that can be called without a socket, and the server around it.
//!
//! ```text
//!  bulk server / mounter in the same process
//!        │ read(revision, range)
//!        ▼
//!  engine ── present? ──► tier: store (stripes, a checksum per block), keeping (what is worth it), evictor (makes room)
//!    │ missing                                                               ▲
//!    ▼                                                                       │
//!  plan, walk (how much to fetch) ──► in flight (one fetch per block, many waiters) ──► fetch ──► requests ──► origin
//! ```
//!
//! The engine must not know Kubernetes, gRPC or sockets. A fault of the cache is never a read error: it is a miss, a
//! warning and a counter.

pub mod builder;
mod download;
pub mod engine;
mod error;
mod fetch;
mod follow;
mod inflight;
mod intake;
mod keeping;
pub mod limits;
pub mod memory;
pub mod other_dataset;
pub mod packages;
mod plan;
pub mod report;
mod requests;
pub mod rules;
pub mod server;
mod store;
mod sync;
mod tiers;
mod unread;
mod walk;

pub use engine::{Dataset, Engine, EngineConfig};
pub use error::{OpenError, ReadError};
#[cfg(feature = "test-support")]
pub use store::AnyStripe;
pub use store::{TierConfig, is_in_memory};
pub use tiers::TryRead;
