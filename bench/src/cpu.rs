//! What threads of this process have spent on a CPU, told apart by their names: servers and clients of the bench share it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Time on a CPU, in the kernel too, of all living threads whose name begins with `name`. For differences: a thread that ended
/// takes its time with it.
///
/// # Errors
/// When there is no such thread, or the kernel does not count.
pub fn of_threads(name: &str) -> Result<Duration> {
    let (mut nanos, mut threads) = (0, 0);
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        // Other threads may end meanwhile.
        let Ok(theirs) = fs::read_to_string(task.join("comm")) else {
            continue;
        };
        if !theirs.starts_with(name) {
            continue;
        }
        let counted = fs::read_to_string(task.join("schedstat")).context("CONFIG_SCHED_INFO counts it")?;
        let on_cpu = counted.split(' ').next().context("time on a CPU")?;
        nanos += on_cpu.parse::<u64>()?;
        threads += 1;
    }
    ensure!(threads > 0, "no thread is called {name}");
    Ok(Duration::from_nanos(nanos))
}
