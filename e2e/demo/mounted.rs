//! `penstock mount` as a child: started, waited for, ended.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// The running mount; ended when dropped.
pub struct Mounted {
    child: Child,
    ready_after: Duration,
}

impl Mounted {
    /// Starts it and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends instead; what it said stands on the terminal.
    pub fn start(penstock: &Path, yaml: &Path, folder: &Path, cache: &Path) -> Result<Self> {
        let started = Instant::now();
        let mut child = Command::new(penstock)
            .arg("mount")
            .args([yaml, folder])
            .args(["--output", "json", "--cache-size", "10Gi", "--cache-dir"])
            .arg(cache)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Ctrl-C is for the demo, which ends this one in its turn.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", penstock.display()))?;
        let stdout = child.stdout.take().context("its output")?;
        let mut mounted = Self {
            child,
            ready_after: Duration::ZERO,
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(!line.is_empty(), "penstock mount ended: {}", mounted.child.wait()?);
        mounted.ready_after = started.elapsed();
        Ok(mounted)
    }

    /// How long a person waited for it.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Asks it to unmount and waits for it.
    ///
    /// # Errors
    /// When it ends with an error.
    pub fn end(mut self) -> Result<()> {
        let status = self.terminate()?;
        ensure!(status.success(), "penstock mount ended with {status}");
        Ok(())
    }

    fn terminate(&mut self) -> Result<std::process::ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        // Our own child, not yet waited for: the id is still its.
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.terminate() {
            eprintln!("penstock mount could not be ended: {error:#}");
        }
    }
}
