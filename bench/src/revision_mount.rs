//! What a node does with a revision of many files: csi writes its image and mounts it, and a cache node walks through its names. Runs in
//! a process of its own, whose mounts are gone with it.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use penstock_csi::images::{ImageFile, Images};
use penstock_csi::namespace;
use penstock_mount::{bind, erofs};
use penstock_revision::{Package, Scratch};
use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// What it came to. The kernel has nothing of the image in its memory before the mount.
#[derive(Debug, Deserialize, Serialize)]
pub struct Measured {
    /// Seconds from the package to an image on the disk that was checked, as csi does.
    pub image_seconds: f64,
    /// Most memory of the process meanwhile, but for pages of files.
    pub image_peak_bytes: u64,
    /// Seconds of the mount itself.
    pub mount_seconds: f64,
    /// Seconds of the first look into the root.
    pub root_seconds: f64,
    /// Seconds of looking for one file of many, each time another one.
    pub stat_seconds: f64,
    /// Seconds of reading the names of some folders.
    pub list_seconds: f64,
    /// Names of these.
    pub listed: usize,
    /// Seconds in which a cache node walks through all names.
    pub names_seconds: f64,
    /// Most memory of the process meanwhile, but for pages of files.
    pub names_peak_bytes: u64,
}

/// Names that are listed.
const LISTED: usize = 100_000;
/// Files that are looked for.
const STATS: usize = 200;

/// Measures with a package whose files, so many in so many folders, are called by `name`, in a folder on a disk.
///
/// # Errors
/// Without root, and when the disk refuses.
pub fn measure(
    package: &Package,
    (files, folders): (usize, usize),
    name: impl Fn(usize) -> String,
    folder: &Path,
) -> Result<Measured> {
    namespace::enter(folder).context("mount in a namespace of its own; this needs root")?;
    let mut file = tempfile::tempfile_in(folder)?;
    package.copy_to(&mut file)?;
    let images = Images::new(folder.join("images"));
    let started = Instant::now();
    let (image, image_peak_bytes) = most(|| Ok(images.write(&package.id(), &package.space(), file)?))?;
    let image_seconds = started.elapsed().as_secs_f64();
    let mounted = Mounted::begin(&image, folder)?;

    let started = Instant::now();
    ensure!(fs::read_dir(&mounted.root)?.count() == 1, "the root has one folder");
    let root_seconds = started.elapsed().as_secs_f64();
    let mut random = Random(11);
    let started = Instant::now();
    for _ in 0..STATS {
        fs::metadata(mounted.root.join(name(random.next() as usize % files)))?;
    }
    let stat_seconds = started.elapsed().as_secs_f64() / STATS as f64;
    let started = Instant::now();
    let mut listed = 0;
    for number in 0..folders.min(LISTED * folders / files) {
        let path = mounted.root.join(name(number));
        listed += fs::read_dir(path.parent().context("a file is in a folder")?)?.count();
    }
    let list_seconds = started.elapsed().as_secs_f64();
    let mount_seconds = mounted.seconds;
    drop(mounted);
    images.remove(&package.id())?;

    let started = Instant::now();
    let (counts, names_peak_bytes) = most(|| {
        let image = package.unpack(&Scratch::folder(folder))?;
        Ok(image.walk(|_, _, _| {})?)
    })?;
    ensure!(counts.files == files as u64, "{counts:?}");
    Ok(Measured {
        image_seconds,
        image_peak_bytes,
        mount_seconds,
        root_seconds,
        stat_seconds,
        list_seconds,
        listed,
        names_seconds: started.elapsed().as_secs_f64(),
        names_peak_bytes,
    })
}

/// An image that the kernel shows, over files in which there is nothing.
struct Mounted {
    root: std::path::PathBuf,
    seconds: f64,
}

impl Mounted {
    fn begin(image: &ImageFile, folder: &Path) -> Result<Self> {
        let root = folder.join("mounted");
        fs::create_dir(&root)?;
        let mut devices = Vec::new();
        for (number, bytes) in image.device_bytes.iter().enumerate() {
            let device = folder.join(format!("device-{number}"));
            File::create(&device)?.set_len(*bytes)?;
            devices.push(device);
        }
        // It was synced; what of it was read is clean.
        fadvise(File::open(&image.path)?, 0, None, Advice::DontNeed)?;
        let started = Instant::now();
        erofs::mount(&image.path, &root, &devices)?;
        Ok(Self {
            root,
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = bind::unmount(&self.root) {
            eprintln!("{error}");
        }
    }
}

/// What the work comes to, and the most memory that the process had meanwhile which is of no file.
fn most<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut most = 0;
            while !is_over.load(Ordering::Relaxed) {
                most = most.max(anonymous_bytes()?);
                thread::sleep(Duration::from_millis(2));
            }
            Ok::<_, anyhow::Error>(most)
        });
        let done = work();
        is_over.store(true, Ordering::Relaxed);
        let most = watching.join().ok().context("watching memory failed")??;
        Ok((done?, most))
    })
}

fn anonymous_bytes() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes: u64 = line.context("RssAnon")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes * 1024)
}
