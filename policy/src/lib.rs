//! Which units a cache keeps: pure. It must not know clocks, disks, threads, or what a key means.
//!
//! A unit is what is evicted as one: a page of a large object, or a small object. One policy governs one Dataset's share of
//! one cache. The same calls always lead to the same answers.
//!
//! | file | what |
//! |---|---|
//! | `auto` | the default: finds out which of `hold` and `s3_fifo` suits the traffic, by a `trial` of both |
//! | `lru`, `lfu`, `s3_fifo`, `hold` | the policies |
//! | `content`, `rounds` | what the rules of `hold` and `s3_fifo` work on; when traffic has shown all it reads |
//! | `shelves`, `ring`, `index`, `ghost`, `hash` | what policies are made of: 12 bytes for a unit, 6 for finding it |
#![forbid(unsafe_code)]

mod auto;
mod content;
mod ghost;
mod hash;
mod hold;
mod index;
mod lfu;
mod lru;
mod ring;
mod rounds;
mod s3_fifo;
mod shelves;
mod trial;

pub use auto::Auto;
pub use lfu::Lfu;
pub use lru::Lru;
pub use s3_fifo::S3Fifo;
pub use trial::Rules;

/// Says which units are kept.
///
/// # Guarantees
/// Every call but [`Policy::resize`] takes a bounded time, whatever the number of units. A policy never names a unit that was
/// not inserted or was removed since.
pub trait Policy: Send {
    /// A reader came to a unit of `bytes` bytes, stored or not; once for each visit, however many requests it takes. True when
    /// the unit is stored or should be stored now; false when its bytes should be passed through.
    ///
    /// Must be told of hits and misses alike: what the traffic is like shows in both.
    fn read(&mut self, key: u64, bytes: u32) -> bool;

    /// A unit is stored: it was read and has arrived, it was found on disk at a start, in whatever order, or it has now
    /// another number of bytes. What does not come by `read` may come too, and bytes may exceed the capacity for a while.
    ///
    /// `bytes` counts up to 512 MiB - 1.
    fn inserted(&mut self, key: u64, bytes: u32);

    /// A unit is not stored any more: a victim that is gone, or any other that was damaged or is not wanted.
    fn removed(&mut self, key: u64);

    /// The unit that should go next, to be asked for while there are more bytes than the capacity; none when there is none.
    /// It stays until it is `removed`. Whoever may not remove it asks again and is told another: asked often enough, it names
    /// every unit. Who asks has a bound of their own, for all of them may be in use.
    fn victim(&mut self) -> Option<u64>;

    /// The capacity in bytes is another one from now on, larger or smaller. Nothing is named or removed by that.
    fn resize(&mut self, capacity: u64);
}
