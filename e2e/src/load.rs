//! A load that verifies every byte: threads that read files of a pod's volume, cold each time, until they are told to stop.
//!
//! It reads through the pod's own mount, by `/proc/<process of the pod>/root`, from outside of the pod, so that nothing but
//! the volume is tried.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::{Advice, fadvise};
use sha2::{Digest, Sha256};

use crate::cluster::kubectl;
use crate::dataset::{Sums, hex};

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Files read to their end with the right bytes.
    pub files: u64,
    /// What went wrong, a sentence each.
    pub errors: Vec<String>,
    /// The longest time that one file took.
    pub longest: Duration,
}

/// Running readers. They stop when it is dropped.
pub struct Load {
    stop: Arc<AtomicBool>,
    files: Arc<AtomicU64>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `readers` threads on the volume at `/data` of a pod, whose files are `sums`.
    ///
    /// # Errors
    /// When the pod has no process.
    pub fn on_pod(namespace: &str, pod: &str, sums: &Sums, readers: usize) -> Result<Self> {
        let root = root_of(namespace, pod)?.join("data");
        let files: Arc<Vec<_>> = Arc::new(sums.clone().into_iter().collect());
        let (stop, seen, count) = (Arc::default(), Arc::default(), Arc::default());
        let threads = (0..readers).map(|reader| {
            let at = reader * files.len() / readers;
            let reader = Reader {
                root: root.clone(),
                files: files.clone(),
                stop: Arc::clone(&stop),
                seen: Arc::clone(&seen),
                count: Arc::clone(&count),
            };
            std::thread::spawn(move || reader.read_on(at))
        });
        Ok(Self {
            threads: threads.collect(),
            stop,
            files: count,
            seen,
        })
    }

    /// What was seen since the last time it was asked.
    pub fn take(&self) -> Seen {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = std::mem::take(&mut *seen);
        taken.files = self.files.swap(0, Ordering::Relaxed);
        taken
    }

    /// Waits until some more files were read, so that whatever happened before is behind the readers.
    ///
    /// # Errors
    /// When nothing is read any more.
    pub fn goes_on(&self, deadline: Duration) -> Result<()> {
        let target = self.files.load(Ordering::Relaxed) + 4 * self.threads.len() as u64;
        crate::wait::wait_for("readers to go on", deadline, || {
            let files = self.files.load(Ordering::Relaxed);
            Ok(if files >= target {
                Ok(())
            } else {
                Err(format!("{files} of {target} files"))
            })
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Its panic was printed.
            let _ = thread.join();
        }
    }
}

impl Load {
    /// Waits until everything behind the readers is behind them, for at most `deadline`, prints what they saw, and fails when
    /// there were errors or a pause longer than `bound`.
    ///
    /// # Errors
    /// With the first errors.
    pub fn check(&self, what: &str, deadline: Duration, bound: Duration) -> Result<()> {
        self.goes_on(deadline)?;
        self.take().check(what, bound)
    }
}

impl Seen {
    /// Prints it, and fails when there were errors or a pause longer than `bound`.
    ///
    /// # Errors
    /// With the first errors.
    pub fn check(&self, what: &str, bound: Duration) -> Result<()> {
        let Self { files, errors, longest } = self;
        println!(
            "  {what}: {files} files, {} errors, longest pause {:.2} s",
            errors.len(),
            longest.as_secs_f32()
        );
        ensure!(errors.is_empty(), "{what}: {:?}", &errors[..errors.len().min(5)]);
        ensure!(*files > 0, "{what}: nothing was read");
        ensure!(
            *longest <= bound,
            "{what}: a file took {longest:?}, more than {bound:?}"
        );
        Ok(())
    }
}

struct Reader {
    root: PathBuf,
    files: Arc<Vec<(String, String)>>,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    count: Arc<AtomicU64>,
}

impl Reader {
    fn read_on(&self, mut at: usize) {
        while !self.stop.load(Ordering::Relaxed) {
            let (path, sum) = &self.files[at % self.files.len()];
            // Not the order of the folder, so that little is read ahead.
            at += 7;
            let started = Instant::now();
            let read = sum_of(&self.root.join(path.trim_start_matches("./")));
            let took = started.elapsed();
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.longest = seen.longest.max(took);
            match read {
                Ok(found) if found == *sum => drop(self.count.fetch_add(1, Ordering::Relaxed)),
                Ok(_) => seen.errors.push(format!("{path} has wrong bytes")),
                Err(error) => seen.errors.push(format!("{path}: {error}")),
            }
        }
    }
}

/// The checksum of a file, whose pages the kernel is asked to forget before.
fn sum_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let (mut hasher, mut piece) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut piece)? {
            0 => break,
            bytes => hasher.update(&piece[..bytes]),
        }
    }
    Ok(hex(&hasher.finalize()))
}

/// The root folder of a pod, as this machine sees it.
///
/// # Errors
/// When the pod has no process.
pub fn root_of(namespace: &str, pod: &str) -> Result<PathBuf> {
    let uid = kubectl(["get", "pod", pod, "-n", namespace, "-o", "jsonpath={.metadata.uid}"])?;
    for process in fs::read_dir("/proc")? {
        let process = process?.path();
        let cgroup = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        // The sandbox's pause has no /data.
        if cgroup.contains(&uid) && process.join("root/data").is_dir() {
            return Ok(process.join("root"));
        }
    }
    None.with_context(|| format!("the pod {namespace}/{pod} has no process on this machine"))
}
