//! The first epoch from a bucket that is far away: a proxy keeps each request for 10 ms. One reader who opens one small file
//! after the other in a random order, as a peer without knowledge of the order would let him wait 10 ms and more for each.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use penstock::cache_folder::CacheFolder;
use penstock::local::{Local, Source};
use penstock_cache_node::report::Counters;
use penstock_revision::BuildOptions;

use crate::CAPACITY_BYTES;
use crate::data::Data;
use crate::figure::{Figure, Goal, median};
use crate::load;
use crate::rounds::Rounds;
use crate::shown::Shown;

const DELAY: Duration = Duration::from_millis(10);
const FILES: usize = 5000;

/// The figures of epochs over small files; `source` makes a source of the bucket at another address.
///
/// # Errors
/// When a read fails.
pub fn figures(
    scratch: &Path,
    (origin, source): (SocketAddr, impl Fn(SocketAddr) -> Result<Source>),
    data: &Data,
    runtime: &tokio::runtime::Runtime,
    rounds: &Rounds<'_>,
) -> Result<Vec<Figure>> {
    let source = source(delaying(origin)?)?;
    let (mut each, mut pulled) = (Vec::new(), Vec::new());
    for round in 0..rounds.long as u64 {
        let folder = scratch.join(format!("far-{round}"));
        let cache = CacheFolder::take(&folder, "bench")?;
        let local = runtime.block_on(Local::open(
            std::slice::from_ref(&source),
            BuildOptions::default(),
            &cache,
            CAPACITY_BYTES,
        ))?;
        let reader = local.reader(crate::READ_TIMEOUT);
        let shown = Shown::new(&folder, local.package(), reader, runtime.handle())?;
        let mut files = data.small_below(shown.root());
        files.truncate(FILES);
        let took = load::epoch(&files, round, 1)?;
        each.push(took.micros_each());
        pulled.push(Counters::get(&local.engine().counters().origin_bytes) as f64 / took.bytes as f64);
        drop(shown);
        std::fs::remove_dir_all(&folder)?;
    }
    let figure = |name: &str, value, unit, goals| Figure {
        name: name.into(),
        value,
        unit,
        reference: None,
        goals,
    };
    Ok(vec![
        figure("far-epoch-small-files", median(each), "us", vec![Goal::AtMost(1500.0)]),
        figure("far-epoch-origin-bytes", median(pulled), "x", vec![Goal::AtMost(1.02)]),
    ])
}

/// A proxy of `origin` that keeps what a client sends for [`DELAY`].
fn delaying(origin: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || {
                // A connection that cannot be made ends; whoever asked tries again.
                let Ok(upstream) = TcpStream::connect(origin) else {
                    return;
                };
                let streams = (client.try_clone(), upstream.try_clone());
                let (Ok(to_client), Ok(from_upstream)) = streams else {
                    return;
                };
                thread::spawn(move || pass_on(from_upstream, to_client, Duration::ZERO));
                pass_on(client, upstream, DELAY);
            });
        }
    });
    Ok(address)
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let _ = to.set_nodelay(true);
    let mut bytes = vec![0; 256 << 10];
    while let Ok(got @ 1..) = from.read(&mut bytes) {
        thread::sleep(delay);
        if to.write_all(&bytes[..got]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
