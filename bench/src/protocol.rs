//! The bulk protocol alone, over loopback and without a mount: a cache node that has everything in the kernel's memory, one
//! connection. A loop around sendfile(2) of the same bytes beside it.
//!
//! The client receives into a buffer on both sides. On ours it compares the checksums too, as every client of a cache node does,
//! and the loop has none: the goals are for what a reader gets. How much of the difference that is, a figure without it says.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::sockopt;

use crate::bulk_connection::{BulkConnection, Checksums};
use crate::cached::Cached;
use crate::cpu;
use crate::figure::{Figure, Goal, Reference, median};
use crate::pipeline::{self, Connection, Request};
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
    let raw = sendfile_loop::serve(listen()?, flat)?;
    let large = pieces(cached.package, LARGE_BYTES)?;
    let bulk = |checksums| BulkConnection::new(server, cached.package, checksums);

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
    for (name, cpu_name, checksums, goals) in [
        (
            "protocol-1m",
            "protocol-server-cpu",
            Checksums::Compared,
            (vec![Goal::RatioAtLeast(0.85)], vec![Goal::RatioAtMost(1.3)]),
        ),
        (
            "protocol-1m-not-compared",
            "protocol-server-cpu-not-compared",
            Checksums::Ignored,
            (vec![], vec![]),
        ),
    ] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let medians = rounds.run(
            rounds.short,
            |_| stream(&mut bulk(checksums)?, NAME, &large, &mut ours),
            |_| {
                stream(
                    &mut SendfileConnection::new(raw)?,
                    sendfile_loop::NAME,
                    &large,
                    &mut theirs,
                )
            },
        )?;
        figure(name, "GiB/s", goals.0, medians);
        figure(cpu_name, "ms/GB", goals.1, (median(ours), median(theirs)));
    }
    let mut small = pieces(cached.package, SMALL_BYTES)?;
    let mut shuffled = |round| {
        Random(round).shuffle(&mut small);
        small[..SMALL_REQUESTS.min(small.len())].to_vec()
    };
    let orders: Vec<_> = (0..rounds.short as u64).map(&mut shuffled).collect();
    let medians = rounds.run(
        rounds.short,
        |round| pipeline::median_micros(&mut bulk(Checksums::Compared)?, &orders[round as usize]),
        |round| pipeline::median_micros(&mut SendfileConnection::new(raw)?, &orders[round as usize]),
    )?;
    figure("protocol-64k-latency", "us", vec![Goal::RatioAtMost(1.3)], medians);
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
