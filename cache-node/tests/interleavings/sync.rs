//! `src/sync.rs` over loom.

pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};

pub(crate) use crate::watch;

pub(crate) fn in_all_orders(test: impl Fn() + Send + Sync + 'static) {
    // Loom's own advice: two or three switches of threads that nothing forces find what is wrong, and all of them take hours.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(test);
}
