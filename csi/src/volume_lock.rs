//! One call per target at a time. The CSI specification: "The CO SHOULD ensure that there is no other call in-flight for
//! the volume ... the SP MAY return ABORTED". The key is the target, not the volume: pods that share a Dataset start
//! together, and what they share is guarded by [`crate::revisions`].

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::error::Error;

/// The targets that are being worked on.
#[derive(Clone, Debug, Default)]
pub struct VolumeLocks(Arc<Targets>);

#[derive(Debug, Default)]
struct Targets {
    held: Mutex<HashSet<PathBuf>>,
    released: Condvar,
}

/// Holds a target until it is dropped.
#[derive(Debug)]
pub struct VolumeLock {
    target: PathBuf,
    locks: VolumeLocks,
}

impl VolumeLocks {
    /// Locks `target`, or refuses at once.
    ///
    /// # Errors
    /// [`Error::Busy`] when another call holds it.
    pub fn lock(&self, target: &Path) -> Result<VolumeLock, Error> {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.insert(target.to_owned()) {
            return Err(Error::Busy(target.to_owned()));
        }
        Ok(VolumeLock {
            target: target.to_owned(),
            locks: self.clone(),
        })
    }

    /// Waits until no target is held, and says whether that came to be in time. Blocks.
    pub fn wait_until_free(&self, deadline: Duration) -> bool {
        let held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .0
            .released
            .wait_timeout_while(held, deadline, |held| !held.is_empty());
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Drop for VolumeLock {
    fn drop(&mut self) {
        let mut held = self.locks.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&self.target);
        self.locks.0.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_call_for_a_target_is_refused_until_the_first_has_ended() {
        let locks = VolumeLocks::default();
        let first = locks.lock(Path::new("/a")).unwrap();
        assert!(matches!(locks.lock(Path::new("/a")), Err(Error::Busy(_))));
        let _other = locks.lock(Path::new("/b")).unwrap();
        drop(first);
        locks.lock(Path::new("/a")).unwrap();
    }

    #[test]
    fn who_waits_for_all_calls_goes_on_when_the_last_has_ended() {
        let locks = VolumeLocks::default();
        let (first, second) = (
            locks.lock(Path::new("/a")).unwrap(),
            locks.lock(Path::new("/b")).unwrap(),
        );
        assert!(!locks.wait_until_free(Duration::from_millis(1)));
        let waiting = std::thread::spawn(move || locks.wait_until_free(Duration::from_secs(30)));
        drop((first, second));
        assert!(waiting.join().unwrap());
    }
}
