//! The bulk protocol alone, over loopback and without a mount: a cache node that has everything in the kernel's memory, one
//! connection. A loop around sendfile(2) of the same bytes beside it.
//!
//! The client does the same on both sides: it receives into a buffer and looks at nothing, or it computes the checksums of all
//! that arrived, as every client of a cache node does. Only the latency is that of our client with checksums beside a bare one:
//! it is what a reader waits for.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use penstock_tls::Identity;
use penstock_tls::test_support::Authority;
use rustix::net::sockopt;

use crate::bulk_connection::BulkConnection;
use crate::cached::Cached;
use crate::client_stream;
use crate::cpu;
use crate::figure::{Figure, Goal, Reference, median};
use crate::pipeline::{self, Checksums, Connection, Request};
use crate::places::pieces;
use crate::random::Random;
use crate::rounds::Rounds;
use crate::sendfile_loop::{self, SendfileConnection};

/// What is asked for in the middle of the path.
const LARGE_BYTES: u64 = 1 << 20;
/// ... and in flight.
const DEPTH: usize = 16;
/// What is asked for one at a time.
const SMALL_BYTES: u64 = 64 << 10;
const SMALL_REQUESTS: usize = 4000;
/// Bytes of a round: the data as often as it takes.
const ROUND_BYTES: u64 = 2 << 30;
/// Name of the threads that serve.
const NAME: &str = "bulk-server";
/// They live on, and with them what they spent: longer than the bench takes.
const KEEP_ALIVE: Duration = Duration::from_secs(24 * 3600);

/// The figures of a cache node with everything of `cached`; `flat` has the same bytes.
///
/// # Errors
/// When a read fails.
pub fn figures(scratch: &Path, cached: &Cached<'_>, flat: &Path, rounds: &Rounds<'_>) -> Result<Vec<Figure>> {
    // Threads of its own, as in a process of its own.
    let serving = tokio::runtime::Builder::new_multi_thread()
        .thread_name(NAME)
        .thread_keep_alive(KEEP_ALIVE)
        .enable_all()
        .build()?;
    let server = cached.serve(&scratch.join("protocol"), listen()?, &serving)?;
    let raw = sendfile_loop::serve(listen()?, flat, None)?;
    let large = pieces(cached.package, LARGE_BYTES)?;
    let bulk = |checksums| BulkConnection::new(server, cached.package, checksums);
    let bare = |checksums| SendfileConnection::new(raw, None, checksums);

    let mut figures = Vec::new();
    let mut figure = |name: &str, unit, goals, (value, reference)| {
        figures.push(Figure {
            name: name.into(),
            value,
            unit,
            reference: Some(Reference {
                name: "raw sendfile loop",
                value: reference,
            }),
            goals,
        });
    };
    for (name, checksums) in [
        ("protocol-1m", Checksums::Ignored),
        ("protocol-1m-checksums", Checksums::Computed),
    ] {
        let (mut our_cpu, mut their_cpu) = (Vec::new(), Vec::new());
        let medians = rounds.run(
            rounds.short,
            |_| stream(&mut bulk(checksums)?, NAME, &large, &mut our_cpu),
            |_| stream(&mut bare(checksums)?, sendfile_loop::NAME, &large, &mut their_cpu),
        )?;
        figure(name, "GiB/s", vec![Goal::RatioAtLeast(0.85)], medians);
        let medians = (median(our_cpu), median(their_cpu));
        figure(
            &format!("{name}-server-cpu"),
            "ms/GB",
            vec![Goal::RatioAtMost(1.3)],
            medians,
        );
    }
    let small = pieces(cached.package, SMALL_BYTES)?;
    let order = |round| {
        let mut small = small.clone();
        Random(round).shuffle(&mut small);
        small.truncate(SMALL_REQUESTS);
        small
    };
    let medians = rounds.run(
        rounds.short,
        |round| pipeline::median_micros(&mut bulk(Checksums::Computed)?, &order(round)),
        |round| pipeline::median_micros(&mut bare(Checksums::Ignored)?, &order(round)),
    )?;
    figure("protocol-64k-latency", "us", vec![Goal::RatioAtMost(1.3)], medians);
    figures.extend(over_tls(scratch, cached, flat, (&serving, raw), rounds)?);
    Ok(figures)
}

/// The same over TLS, beside the loop without and with it.
fn over_tls(
    scratch: &Path,
    cached: &Cached<'_>,
    flat: &Path,
    (serving, plain): (&tokio::runtime::Runtime, SocketAddr),
    rounds: &Rounds<'_>,
) -> Result<Vec<Figure>> {
    let folder = scratch.join("identity");
    Authority::new()?.identify(&[&Ipv4Addr::LOCALHOST.to_string()], &folder)?;
    let identity = Identity::open(&folder)?;
    let folder = scratch.join("protocol-tls");
    let server = cached.serve_as(Some(identity.clone()), &folder, listen()?, serving)?;
    let sealed = sendfile_loop::serve(listen()?, flat, Some(&identity))?;
    let large = pieces(cached.package, LARGE_BYTES)?;
    let mut figures = Vec::new();
    for (name, beside, loop_at, with, goals) in [
        ("protocol-1m-tls", "raw sendfile loop", plain, None, vec![]),
        (
            "protocol-1m-tls-beside-tls",
            "raw loop over TLS",
            sealed,
            Some(&*identity),
            vec![Goal::RatioAtLeast(0.7)],
        ),
    ] {
        let medians = rounds.run(
            rounds.short,
            |_| {
                let connection = client_stream::connect(server, Some(&identity))?;
                let mut bulk = BulkConnection::on(connection, cached.package, Checksums::Ignored);
                stream(&mut bulk, NAME, &large, &mut Vec::new())
            },
            |_| {
                let mut bare = SendfileConnection::new(loop_at, with, Checksums::Ignored)?;
                stream(&mut bare, sendfile_loop::NAME, &large, &mut Vec::new())
            },
        )?;
        figures.push(Figure {
            name: name.into(),
            value: medians.0,
            unit: "GiB/s",
            reference: Some(Reference {
                name: beside,
                value: medians.1,
            }),
            goals,
        });
    }
    Ok(figures)
}

/// GiB a second of all `pieces`, again and again; what the threads `serving` spent goes to `cpu`, in ms a GB.
fn stream(server: &mut impl Connection, serving: &str, pieces: &[Request], cpu: &mut Vec<f64>) -> Result<f64> {
    let requests: Vec<_> = pieces
        .iter()
        .copied()
        .cycle()
        .take((ROUND_BYTES / LARGE_BYTES) as usize)
        .collect();
    let before = cpu::of_threads(serving)?;
    let took = pipeline::fetch(server, &requests, DEPTH)?;
    let spent = cpu::of_threads(serving)? - before;
    cpu.push(spent.as_secs_f64() * 1e3 / (took.bytes as f64 / 1e9));
    Ok(took.gib_per_second())
}

/// A port of this machine, where BBR does not matter (see [`crate::namespace`]).
fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    sockopt::set_tcp_congestion(&listener, "cubic").context("set the congestion control to cubic")?;
    Ok(listener)
}
