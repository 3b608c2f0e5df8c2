//! `make demo`: a bucket on a real S3 server, mounted by `penstock mount` as a user would, read twice, every checksum
//! compared with what was put into the bucket, with a table of how long it took. Leaves nothing behind, also on Ctrl-C.
//!
//! Must not know how Penstock works inside: it starts the binary and reads files.

mod epoch;
mod mounted;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use penstock_e2e::counting_proxy::CountingProxy;
use penstock_e2e::origin::S3Server;
use penstock_e2e::{dataset, manifests};

use crate::epoch::{Epoch, Sums};
use crate::mounted::Mounted;
use penstock_e2e::stop::Stop;

const FILES: usize = 3000;
const BIG_BYTES: usize = 512 << 20;
const BUCKET: &str = "sample";

fn main() -> Result<()> {
    let penstock = PathBuf::from(std::env::args().nth(1).context("usage: demo PATH-OF-PENSTOCK")?);
    let stop = Stop::on_signals()?;
    let scratch = scratch()?;
    let outcome = demo(&penstock, scratch.path(), &stop);
    scratch.close().context("remove the demo's folder")?;
    outcome
}

fn demo(penstock: &Path, scratch: &Path, stop: &Stop) -> Result<()> {
    let server = S3Server::rclone_on(Ipv4Addr::LOCALHOST.into(), scratch)?;
    let local = server.buckets().join(BUCKET);
    println!("Writing a sample dataset into the bucket s3://{BUCKET} ...");
    dataset::write(&local, FILES, BIG_BYTES)?;
    stop.check()?;
    let sums = Sums::below(&local)?;
    println!(
        "  {} files, {}, on {}",
        sums.files(),
        mebibytes(sums.bytes()),
        server.address
    );
    // What the origin gave out is counted on its own side of the wire.
    let origin = CountingProxy::start((Ipv4Addr::LOCALHOST, 0).into(), server.address)?;

    let yaml = scratch.join("sample.yaml");
    fs::write(
        &yaml,
        format!(
            "{}---\n{}",
            manifests::secret("default"),
            manifests::dataset("default", "sample", &origin.address, server.region, BUCKET, "")
        ),
    )?;
    let folder = scratch.join("mnt");
    fs::create_dir(&folder)?;
    println!("penstock mount sample.yaml mnt");
    let mounted = Mounted::start(penstock, &yaml, &folder, &scratch.join("cache"))?;
    println!("  ready after {:.1} s", mounted.ready_after().as_secs_f64());
    origin.reset();

    let read = |label: &'static str, root: &Path| -> Result<Epoch> { epoch::read(label, root, &sums, stop) };
    let first = read("first epoch", &folder)?;
    let (pulled, repeated) = (origin.bytes(), origin.repeated());
    let second = read("second epoch", &folder)?;
    forget_kernel_caches()?;
    let cached = read("from the cache", &folder)?;
    let pulled_later = origin.bytes() - pulled;
    forget_kernel_caches()?;
    let disk = read("local disk", &local)?;
    let disk_warm = read("local disk again", &local)?;
    mounted.end()?;

    println!();
    println!("{:<58}{:>9}{:>12}{:>12}", "", "time", "files/s", "MiB/s");
    for (label, epoch) in [
        ("first epoch, from the bucket", first),
        ("second epoch", second),
        ("  the same files on the local disk, read before", disk_warm),
        ("third epoch, the kernel's caches dropped", cached),
        ("  the same files on the local disk, caches dropped", disk),
    ] {
        println!("{label:<58}{}", row(epoch, &sums));
    }
    println!();
    let ratio = pulled as f64 / sums.bytes() as f64;
    println!(
        "All checksums are those of the bucket: {} files, read three times.",
        sums.files()
    );
    println!(
        "Bytes pulled from the bucket: {} of {}: {ratio:.2}x in the first epoch, {pulled_later} bytes after it.",
        mebibytes(pulled),
        mebibytes(sums.bytes())
    );
    ensure!(
        pulled == sums.bytes() && repeated.is_empty() && pulled_later == 0,
        "the bucket served {pulled} + {pulled_later} bytes instead of {} once; repeated: {repeated:?}",
        sums.bytes()
    );
    println!("Unmounted; nothing is left behind.");
    Ok(())
}

/// On the disk of the user's cache: a cache folder and an EROFS image need a real file system, and /tmp may be none.
fn scratch() -> Result<tempfile::TempDir> {
    let cache = std::env::var_os("PENSTOCK_CACHE").map_or_else(std::env::temp_dir, PathBuf::from);
    fs::create_dir_all(&cache)?;
    tempfile::Builder::new()
        .prefix("demo-")
        .tempdir_in(&cache)
        .with_context(|| format!("make a folder in {}", cache.display()))
}

fn forget_kernel_caches() -> Result<()> {
    // Dirty pages are not dropped.
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("drop the kernel's caches")
}

fn row(epoch: Epoch, sums: &Sums) -> String {
    let seconds = epoch.time.max(Duration::from_micros(1)).as_secs_f64();
    format!(
        "{seconds:>7.2} s{:>12.0}{:>12.0}",
        sums.files() as f64 / seconds,
        sums.bytes() as f64 / seconds / f64::from(1 << 20)
    )
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
