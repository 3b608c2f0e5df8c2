//! Waiting for a condition with a deadline; the only place where a story pauses.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const POLL: Duration = Duration::from_millis(200);

/// Looks until `look` gives a value. `look` returns `Ok(Err(what is still missing))` while there is something to wait
/// for, and `Err` for a fault that waiting does not mend.
///
/// # Errors
/// The fault, or after `deadline` what was still missing.
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<Result<T, String>>) -> Result<T> {
    let started = Instant::now();
    loop {
        match look()? {
            Ok(value) => return Ok(value),
            Err(missing) if started.elapsed() > deadline => bail!("{what}: after {deadline:?} still: {missing}"),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}
