//! Tries all orders in which threads can come, and all values that the memory model lets them see: the single flight and the presence
//! of a stripe, the same files as in the product, over loom's stand-ins for what they share.
//!
//! `sync` and `error` have here the names that they have in the crate, which is all that these files ask of it.
#![allow(dead_code, reason = "what the rest of the crate uses of these files")]

#[path = "../../src/inflight.rs"]
mod inflight;
#[path = "../../src/store/presence.rs"]
mod presence;
mod sending;
mod single_flight;
mod sync;
mod watch;

mod error {
    pub use penstock_cache_node::ReadError;
}
