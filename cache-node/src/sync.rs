//! What threads of the pure structures share: [`crate::inflight`] and the presence of a stripe have nothing from elsewhere, so
//! that `tests/interleavings` can build the same files over the stand-ins of loom and try all orders in which threads come.

pub(crate) use std::sync::{Mutex, MutexGuard, atomic};
pub(crate) use tokio::sync::watch;

/// Where a unit test uses these: over loom it is a run in all orders.
#[cfg(test)]
pub(crate) fn in_all_orders(test: impl Fn() + Send + Sync + 'static) {
    test();
}
