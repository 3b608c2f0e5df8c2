//! How long a revision of many files takes besides the listing, how much memory, and how large its package is. Runs in a
//! process of its own, so that the peak of memory is its own.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use penstock_protocol::ids::SpaceId;
use penstock_revision::{BuildOptions, Gathering, Listed, Outcome, Package, Scratch, Version};
use serde::{Deserialize, Serialize};

use crate::random::Random;
use crate::revision_mount;

/// What a build and a refresh came to.
#[derive(Debug, Deserialize, Serialize)]
pub struct Measured {
    /// Seconds from the first object to a package whose image is ready to be mounted, making up the objects included.
    pub build_seconds: f64,
    /// Most memory that the process had until the package was made.
    pub build_peak_bytes: u64,
    /// Seconds of the next revision, with 1 % of the objects changed.
    pub refresh_seconds: f64,
    /// Most memory that the process had meanwhile, the parent's package included.
    pub refresh_peak_bytes: u64,
    /// Bytes of the objects that changed.
    pub changed_bytes: u64,
    /// Bytes of the objects that have another address than in the parent, so that they are fetched again.
    pub refetched_bytes: u64,
    /// Length of the package.
    pub package_bytes: u64,
    /// Length of the image.
    pub image_bytes: u64,
    /// What a node does with it.
    pub mount: revision_mount::Measured,
}

/// Measures in a child, which is this program again, with its files in `folder`.
///
/// # Errors
/// When the child fails.
pub fn measure_in_child(files: usize, folder: &Path) -> Result<Measured> {
    let program = std::env::current_exe()?;
    let output = Command::new(program)
        .args(["revision-build", &files.to_string()])
        .arg("--folder")
        .arg(folder)
        .output()?;
    ensure!(
        output.status.success(),
        "the build ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Measures in this process. What is listed comes in pages, as from a store, and is made while it is gathered.
///
/// # Errors
/// When a build fails.
pub fn measure(files: usize, folder: &Path) -> Result<Measured> {
    let options = BuildOptions::default();
    let started = Instant::now();
    let package = built(gathered(objects(files), folder)?.build(SpaceId([7; 16]), None, &options)?)?;
    let build_peak_bytes = peak_bytes()?;
    package.image_to(&mut tempfile::tempfile_in(folder)?)?;
    let image_bytes = package.image_bytes();
    let build_seconds = started.elapsed().as_secs_f64();
    let mut changed_bytes = 0;
    let next = objects(files).enumerate().map(|(number, mut object)| {
        if number % CHANGED_EVERY == 0 {
            change(&mut object);
            changed_bytes += object.bytes;
        }
        object
    });
    forget_peak()?;
    let started = Instant::now();
    let next = built(gathered(next, folder)?.build(SpaceId([8; 16]), Some(&package), &options)?)?;
    let refresh_peak_bytes = peak_bytes()?;
    next.image_to(&mut tempfile::tempfile_in(folder)?)?;
    let refresh_seconds = started.elapsed().as_secs_f64();
    Ok(Measured {
        build_seconds,
        build_peak_bytes,
        refresh_seconds,
        refresh_peak_bytes,
        mount: revision_mount::measure(&next, (files, FOLDERS), key, folder)?,
        changed_bytes,
        refetched_bytes: refetched_bytes(&package, &next)?,
        package_bytes: package.bytes(),
        image_bytes,
    })
}

fn gathered(mut objects: impl Iterator<Item = Listed>, folder: &Path) -> Result<Gathering> {
    let mut gathering = Gathering::new(Scratch::folder(folder));
    let source = gathering.begin_source("s3://bench/".into(), "")?;
    let mut page = Vec::new();
    loop {
        page.clear();
        page.extend(objects.by_ref().take(PAGE_OBJECTS));
        if page.is_empty() {
            return Ok(gathering);
        }
        gathering.add(source, &page)?;
    }
}

fn built(outcome: Outcome) -> Result<Package> {
    match outcome {
        Outcome::New(package) => Ok(package),
        Outcome::Unchanged => anyhow::bail!("nothing had changed"),
    }
}

/// What a cache that is full of the parent lacks of the next revision. Addresses are appended, so all that is new lies behind
/// the parent's end, and the whole of another space is new.
fn refetched_bytes(parent: &Package, next: &Package) -> Result<u64> {
    let known = if next.space() == parent.space() {
        parent.summary().space_bytes
    } else {
        0
    };
    let mut bytes = 0;
    for extent in next.all_extents() {
        let extent = extent?;
        if extent.address >= known {
            bytes += extent.bytes;
        }
    }
    Ok(bytes)
}

/// Objects in a page of a listing, as in S3.
const PAGE_OBJECTS: usize = 1000;

/// One of so many objects changes until the refresh.
const CHANGED_EVERY: usize = 100;

fn change(object: &mut Listed) {
    object.version = Version::ETag(format!("{}-changed", object.key.len()));
    object.bytes += 1;
}

/// Like ImageNet: a thousand folders, names of 30 characters, versions that cannot be compressed.
fn objects(files: usize) -> impl Iterator<Item = Listed> {
    let mut random = Random(3);
    (0..files).map(move |i| Listed {
        key: key(i),
        bytes: 20_000 + random.next() % 180_000,
        modified_unix_nanos: 1_700_000_000_000_000_000 + (random.next() % 100_000_000) as i64 * 1_000_000_000,
        version: Version::ETag(format!("{:016x}{:016x}", random.next(), random.next())),
    })
}

const FOLDERS: usize = 1000;

fn key(number: usize) -> String {
    let folder = number % FOLDERS * 7919;
    format!("train/n{folder:08}/n{folder:08}_{number:08}.JPEG")
}

/// proc(5): 5 sets the peak to what the process has now.
fn forget_peak() -> Result<()> {
    std::fs::write("/proc/self/clear_refs", "5").context("forget the peak of memory")
}

fn peak_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes: u64 = line.context("VmHWM")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes * 1024)
}
