//! `make bench`: measures Penstock beside a reference of each path, in the same run on the same machine. One line a figure
//! on standard output, all of them as JSON in a file; fails when one misses a goal. Leaves nothing behind.

mod bulk_connection;
mod cached;
mod client_stream;
mod cold;
mod cpu;
mod data;
mod download;
mod fair;
mod far;
mod figure;
mod fill;
mod first_touch;
mod flat;
mod listing;
mod load;
mod memory;
mod namespace;
mod other_node;
mod own_node;
mod pipeline;
mod places;
mod protocol;
mod random;
mod revision_build;
mod revision_mount;
mod rounds;
mod sendfile_loop;
mod shown;
mod ssd;
mod volume;
mod warm;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use penstock::cache_folder::CacheFolder;
use penstock::local::{Local, Source};
use penstock_e2e::origin::S3Server;
use penstock_e2e::stop::Stop;
use penstock_mount::forms::Form;
use penstock_mounter::reader::PlainFile;
use penstock_protocol::control::cache_node as wire;
use penstock_revision::BuildOptions;

use crate::cached::Cached;
use crate::data::{Data, Sizes};
use crate::figure::{Figure, Goal, Reference};
use crate::rounds::Rounds;
use crate::shown::Shown;
use crate::volume::Volume;

const BUCKET: &str = "bench";
/// More than the data.
/// Files of a revision, for which there are goals.
const REVISION_FILES: usize = 1_000_000;
const CAPACITY_BYTES: u64 = 100 << 30;
/// How long a read may take: far longer than any here.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const FILLING_READERS: usize = 8;

/// Measures Penstock beside references and prints one line a figure.
#[derive(Parser)]
struct Arguments {
    /// Little data and few rounds: shows that everything runs, says little about speed, and fails for no goal that is missed
    #[arg(long)]
    quick: bool,
    /// Only figures whose group is named: revision, listing, cold, far, fill, fair, warm, fuse, first-touch, own-node, other-node,
    /// protocol, ssd
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Files of the revision that is built; ten million take some minutes and 6 GB of the disk
    #[arg(long, default_value_t = REVISION_FILES)]
    files: usize,
    /// Where the figures are written as JSON
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
    /// Folder on a disk with ext4, xfs or btrfs, for about 12 GiB
    #[arg(long, env = "PENSTOCK_CACHE", default_value = ".")]
    folder: PathBuf,
    #[command(subcommand)]
    inner: Option<Inner>,
}

#[derive(Subcommand)]
enum Inner {
    /// Builds a revision of so many files in this process and prints what it took
    #[command(hide = true)]
    RevisionBuild {
        files: usize,
        /// For what the build keeps outside of its memory
        #[arg(long)]
        folder: PathBuf,
    },
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(Inner::RevisionBuild { files, folder }) = arguments.inner {
        println!("{}", serde_json::to_string(&revision_build::measure(files, &folder)?)?);
        return Ok(ExitCode::SUCCESS);
    }
    let stop = Stop::on_signals()?;
    std::fs::create_dir_all(&arguments.folder)?;
    let scratch = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(&arguments.folder)
        .with_context(|| format!("make a folder in {}", arguments.folder.display()))?;
    let outcome = run(&arguments, scratch.path(), &stop);
    scratch.close().context("remove the bench's folder")?;
    let figures = outcome?;
    let json: Vec<_> = figures.iter().map(Figure::json).collect();
    if let Some(folder) = arguments.json.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&arguments.json, serde_json::to_string_pretty(&json)?)?;
    let missed = figure::missed(&figures);
    eprint!("{missed}");
    // So little data says nothing about a goal.
    let is_reached = missed.is_empty() || arguments.quick;
    Ok(if is_reached {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run(arguments: &Arguments, scratch: &Path, stop: &Stop) -> Result<Vec<Figure>> {
    let wanted = |group: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == group);
    let mut all = Vec::new();
    let mut print = |figures: Vec<Figure>| {
        for figure in figures {
            println!("{}", figure.line());
            all.push(figure);
        }
    };
    if wanted("revision") {
        print(revision(
            if arguments.quick { 20_000 } else { arguments.files },
            scratch,
        )?);
    }
    if wanted("listing") {
        print(listing::figures(&tokio::runtime::Runtime::new()?)?);
    }
    let sizes = if arguments.quick {
        Sizes {
            big_bytes: 64 << 20,
            small_files: 400,
            wide_entries: 1000,
        }
    } else {
        Sizes {
            big_bytes: 1 << 30,
            small_files: 20_000,
            wide_entries: 10_000,
        }
    };
    let rounds = Rounds {
        short: if arguments.quick { 1 } else { 5 },
        long: if arguments.quick { 1 } else { 3 },
        memory_bytes: 0,
        stop,
    };
    let paged_in = Rounds {
        memory_bytes: sizes.big_bytes as usize,
        ..rounds
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let server = S3Server::public_rclone_on(Ipv4Addr::LOCALHOST.into(), scratch)?;
    let data = Data::write(&server.buckets().join(BUCKET), sizes)?;
    let told_at = |address: SocketAddr| wire::Source {
        origin: Some(wire::source::Origin::S3(wire::S3 {
            bucket: BUCKET.into(),
            region: server.region.into(),
            endpoint: format!("http://{address}"),
            ..Default::default()
        })),
        ..Default::default()
    };
    let source_at = |address: SocketAddr| {
        anyhow::Ok(Source {
            path: String::new(),
            origin: penstock_origin::client(&told_at(address), &penstock_origin::Environment::default())?,
        })
    };
    let source = source_at(server.address)?;
    let told = told_at(server.address);
    if wanted("cold") {
        let sources = [source.clone()];
        print(cold::figures(
            scratch,
            (server.address, BUCKET, &sources),
            &data,
            &runtime,
            &rounds,
        )?);
    }

    if wanted("far") {
        print(far::figures(
            scratch,
            (server.address, source_at),
            &data,
            &runtime,
            &rounds,
        )?);
    }

    if wanted("fill") {
        let origin = (server.address, BUCKET, &source, &told);
        print(fill::figures(scratch, origin, &data, &runtime, &paged_in)?);
    }

    if wanted("fair") {
        let time = Duration::from_secs(if arguments.quick { 1 } else { 5 });
        print(fair::figures(scratch, (&source, &told), time, &runtime, &rounds)?);
    }

    let folder = scratch.join("ours");
    let cache = CacheFolder::take(&folder, "bench")?;
    let local = runtime.block_on(Local::open(&[source], BuildOptions::default(), &cache, CAPACITY_BYTES))?;
    let ours = Shown::new(&folder, local.package(), local.reader(READ_TIMEOUT), runtime.handle())?;
    // Everything is cached from here on.
    let mut everything = data.small_below(ours.root());
    everything.push(ours.root().join(data::BIG));
    load::epoch(&everything, 0, FILLING_READERS)?;
    if wanted("warm") {
        let volume = Volume::of(&data.folder, &scratch.join("ext4/mnt"))?;
        print(warm::figures("warm", ours.root(), &volume.target, &data, &rounds)?);
    }
    if wanted("fuse") {
        let volume = Volume::of(&data.folder, &scratch.join("ext4/mnt"))?;
        let reader = local.reader(READ_TIMEOUT);
        let fuse = Shown::in_form(
            Form::Fuse,
            &scratch.join("fuse"),
            local.package(),
            reader,
            runtime.handle(),
        )?;
        // What a kernel without EROFS has; the goals are for those that have it.
        let figures = warm::figures("fuse-warm", fuse.root(), &volume.target, &data, &rounds)?;
        let without_goals = |figure| Figure {
            goals: Vec::new(),
            ..figure
        };
        print(figures.into_iter().map(without_goals).collect());
    }
    let rounds = paged_in;
    let flat = scratch.join("flat");
    let cached = Cached {
        engine: local.engine(),
        package: local.package(),
        source: told.clone(),
    };
    let (first_touch, own_node, other_node) = (wanted("first-touch"), wanted("own-node"), wanted("other-node"));
    let (protocol, ssd) = (wanted("protocol"), wanted("ssd"));
    if first_touch || own_node || other_node || protocol || ssd {
        flat::write(local.package(), &data.folder, &flat)?;
    }
    if first_touch || own_node {
        let plain = Arc::new(PlainFile(std::fs::File::open(&flat)?));
        let bare = Shown::new(&scratch.join("bare"), local.package(), plain, runtime.handle())?;
        if first_touch {
            print(first_touch::figures("first-touch", &ours, &bare, &data, &rounds)?);
        }
        if own_node {
            print(own_node::figures(scratch, &cached, &bare, &data, &runtime, &rounds)?);
        }
    }
    if other_node {
        print(other_node::figures(
            scratch,
            &cached,
            (&data, &flat),
            &runtime,
            &rounds,
        )?);
    }
    if protocol {
        print(protocol::figures(scratch, &cached, &flat, &rounds)?);
    }
    // The last: it leaves nothing in the kernel's memory.
    if ssd {
        print(ssd::figures((cached.engine, cached.package), &flat, &runtime, &rounds)?);
    }
    Ok(all)
}

fn revision(files: usize, scratch: &Path) -> Result<Vec<Figure>> {
    let measured = revision_build::measure_in_child(files, scratch)?;
    let figure = |name: &str, value, unit, goals| Figure {
        name: name.into(),
        value,
        unit,
        reference: None,
        goals: if files > REVISION_FILES { Vec::new() } else { goals },
    };
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mount = &measured.mount;
    Ok(vec![
        figure(
            &format!("revision-build-{}-files", in_words(files)),
            measured.build_seconds,
            "s",
            vec![Goal::AtMost(60.0)],
        ),
        figure(
            "revision-refresh-1-percent",
            measured.refresh_seconds,
            "s",
            vec![Goal::AtMost(10.0)],
        ),
        figure(
            "revision-package",
            mebibytes(measured.package_bytes),
            "MiB",
            vec![Goal::AtMost(143.0)],
        ),
        figure("revision-image", mebibytes(measured.image_bytes), "MiB", vec![]),
        figure(
            "revision-build-memory",
            mebibytes(measured.build_peak_bytes),
            "MiB",
            vec![Goal::AtMost(476.0)],
        ),
        figure(
            "revision-refresh-memory",
            mebibytes(measured.refresh_peak_bytes),
            "MiB",
            vec![Goal::AtMost(476.0)],
        ),
        Figure {
            reference: Some(Reference {
                name: "changed",
                value: mebibytes(measured.changed_bytes),
            }),
            ..figure(
                "revision-refetched",
                mebibytes(measured.refetched_bytes),
                "MiB",
                vec![Goal::RatioAtLeast(1.0), Goal::RatioAtMost(1.0)],
            )
        },
        figure("revision-image-written", mount.image_seconds, "s", vec![]),
        figure(
            "revision-image-memory",
            mebibytes(mount.image_peak_bytes),
            "MiB",
            vec![Goal::AtMost(200.0)],
        ),
        figure("revision-mount", mount.mount_seconds * 1e3, "ms", vec![]),
        figure("revision-first-ls", mount.root_seconds * 1e3, "ms", vec![]),
        figure("revision-cold-stat", mount.stat_seconds * 1e6, "us", vec![]),
        figure(
            &format!("revision-list-{}-files", in_words(mount.listed)),
            mount.list_seconds,
            "s",
            vec![],
        ),
        figure("revision-names", mount.names_seconds, "s", vec![Goal::AtMost(10.0)]),
        figure(
            "revision-names-memory",
            mebibytes(mount.names_peak_bytes),
            "MiB",
            vec![Goal::AtMost(200.0)],
        ),
    ])
}

fn in_words(number: usize) -> String {
    match number {
        1_000_000.. => format!("{}m", number / 1_000_000),
        _ => format!("{}k", number / 1000),
    }
}
