//! `penstock mount`: everything in one process, from the listing to the last unmount.
//!
//! ```text
//! lock ─► clear leftovers ─► list, build ─► serve the space ─► mount the image ─► ready
//!                                                                                   │ Ctrl-C, SIGTERM, or umount by somebody
//!                     gone ◄─ unmount the space ◄─ unmount the image ◄──────────────┘   (each waits while it is busy)
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use penstock_cache_node::report::Counters;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::{Mount, Output};
use crate::cache_folder::CacheFolder;
use crate::dataset_file::DatasetFile;
use crate::limits::{UNMOUNT_PATIENCE, UNMOUNT_RETRY, USERS_NAMED_MAX};
use crate::local::Local;
use crate::served::{self, Places, Served, Way};
use crate::status::{self, Asked, Cached, Status};
use crate::users::users;
use crate::{target, text};

/// Mounts, serves until asked to end, and unmounts.
///
/// # Errors
/// When something stands in the way; nothing is left mounted then.
pub async fn run(arguments: Mount) -> Result<()> {
    let Mount {
        which,
        target,
        cache,
        form,
        output,
    } = arguments;
    let dataset = DatasetFile::read(&which)?.local()?;
    let mut end = End::listen()?;
    let user = format!("the mount on {}", target.display());
    let folder = CacheFolder::take(&dataset.cache_folder(cache.cache_dir), &user)?;
    for left in served::clear_leftovers(&folder.image(), &folder.space())? {
        eprintln!("unmounted {}, which a killed process had left", left.display());
    }
    let target = target::free(&target)?;
    let places = Places {
        image: folder.image(),
        space: folder.space(),
        target: target.clone(),
    };
    let (way, why) = Way::find(form, folder.path())?;
    tracing::info!(?way, why, "how it will be mounted");

    let progress = progress(&format!("Listing {}", dataset.described));
    let local = tokio::select! {
        local = Local::open(&dataset.sources, dataset.ownership, &folder, cache.cache_size.0) => local?,
        () = end.asked() => bail!("interrupted before anything was mounted"),
    };
    let summary = local.package().summary().clone();
    progress.finish_and_clear();
    if summary.files == 0 {
        eprintln!(
            "note: {} has no objects: is bucket or prefix misspelt?",
            dataset.described
        );
    }
    let runtime = tokio::runtime::Handle::current();
    let served = Served::start(
        local.package(),
        local.reader(dataset.read_timeout),
        places,
        way,
        runtime,
    )?;
    let state = State {
        dataset: dataset.name.clone(),
        mount: target.clone(),
        cache_folder: folder.path().to_owned(),
        capacity_bytes: cache.cache_size.0,
        local,
    };
    let ready = state.now();
    if let Err(error) = status::serve(&folder.status_socket(), Arc::new(move || state.now())) {
        eprintln!("`penstock status` will not work: {error:#}");
    }
    say_ready(&ready, output);

    let aborted = tokio::select! {
        () = end.asked() => false,
        gone = target::unmounted(target.clone()) => {
            gone?;
            false
        }
        () = served.ended() => true,
    };
    take_down(served, &target, &mut end).await?;
    if aborted {
        bail!("somebody aborted the connection to the kernel; it was unmounted, mount it again");
    }
    // Whoever asks from now on learns at once that nobody serves.
    std::fs::remove_file(folder.status_socket()).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error).context("remove the status socket"),
    })
}

/// Asked to end: by Ctrl-C or SIGTERM, as often as it comes.
struct End {
    interrupt: Signal,
    terminate: Signal,
}

impl End {
    fn listen() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What `penstock status` shows is made of these.
struct State {
    dataset: String,
    mount: PathBuf,
    cache_folder: PathBuf,
    capacity_bytes: u64,
    local: Local,
}

impl State {
    fn now(&self) -> Status {
        let package = self.local.package();
        let (summary, counters) = (package.summary(), self.local.engine().counters());
        Status {
            dataset: self.dataset.clone(),
            mount: self.mount.clone(),
            revision: package.id().to_string(),
            pid: std::process::id(),
            cache_folder: self.cache_folder.clone(),
            files: summary.files,
            directories: summary.directories,
            bytes: summary.bytes,
            cached: Cached {
                bytes: self.local.cached_bytes(),
                capacity_bytes: self.capacity_bytes,
                hit_bytes: Counters::get(&counters.hit_bytes),
                miss_bytes: Counters::get(&counters.miss_bytes),
            },
            origin: Asked {
                requests: Counters::get(&counters.origin_requests),
                bytes: Counters::get(&counters.origin_bytes),
            },
            awkward_keys: summary.awkward.count,
            faults: self.local.faults(),
        }
    }
}

fn progress(message: &str) -> ProgressBar {
    let progress = ProgressBar::new_spinner().with_message(format!("{message} ..."));
    progress.enable_steady_tick(Duration::from_millis(100));
    if progress.is_hidden() {
        eprintln!("{message} ...");
    }
    progress
}

fn say_ready(status: &Status, output: Output) {
    match output {
        Output::Json => println!("{}", json!({"ready": true, "status": status})),
        Output::Text => println!(
            "{} is mounted on {}: {} files, {}, {} of it cached. Ctrl-C unmounts.",
            status.dataset,
            status.mount.display(),
            text::count(status.files),
            text::bytes(status.bytes),
            text::bytes(status.cached.bytes)
        ),
    }
}

/// Unmounts everything. While somebody uses it, says who and goes on serving; asked once more, it detaches and ends.
async fn take_down(served: Served, target: &Path, end: &mut End) -> Result<()> {
    let busy = || {
        eprintln!("{} is still in use:", target.display());
        for user in users(target, USERS_NAMED_MAX) {
            eprintln!("  process {} ({}) has {}", user.pid, user.name, user.what);
        }
        eprintln!("It stays served until these end. Ctrl-C again detaches it now, and their further reads fail.");
    };
    if !released(|| served.hide(), busy, end).await? {
        served.detach()?;
    }
    // Whoever unmounted with `umount --lazy` may have left readers behind as well.
    let held = || {
        eprintln!(
            "Files of it are still open in other processes or mount namespaces. It stays served until they are closed; Ctrl-C ends it now."
        );
    };
    if !released(|| served.release(), held, end).await? {
        served.abort()?;
    }
    served.end()
}

/// Tries until it is not busy any more: `true`; or until somebody asks to end once more: `false`.
async fn released(mut unmount: impl FnMut() -> Result<bool>, busy: impl Fn(), end: &mut End) -> Result<bool> {
    let started = Instant::now();
    let mut said = false;
    loop {
        if unmount()? {
            return Ok(true);
        }
        if !said && started.elapsed() > UNMOUNT_PATIENCE {
            busy();
            said = true;
        }
        tokio::select! {
            () = tokio::time::sleep(UNMOUNT_RETRY) => {}
            () = end.asked() => return Ok(false),
        }
    }
}
