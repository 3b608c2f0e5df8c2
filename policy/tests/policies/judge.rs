//! The outside judge: libcachesim runs the traces that we run, with the same capacities, and the promises for mixed traffic
//! are compared with what it says. It must not know how a policy decides.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use penstock_policy::{Auto, Lru, S3Fifo};

use crate::run::{Cache, Ratios};
use crate::traces::{self, Request, UNIT_BYTES, of_keys};

/// What the judge runs; the places of two are known below.
const JUDGED: [&str; 6] = ["LRU", "LFU", "ARC", "S3FIFO", "Sieve", "WTinyLFU"];
const LRU: usize = 0;
const S3_FIFO: usize = 3;

/// Promises, in hit ratio of requests.
const BELOW_S3_FIFO_MAX: f64 = 0.02;
const BELOW_BEST_MAX: f64 = 0.04;

struct Trace {
    name: String,
    requests: Vec<Request>,
    capacities: Vec<u64>,
}

/// Capacities are numbers of units of 4 KiB.
fn all_traces() -> anyhow::Result<Vec<Trace>> {
    let count = 300_000;
    let mut all = Vec::new();
    let mut add = |name: String, requests, units: &[u64]| {
        let capacities = units.iter().map(|units| units * u64::from(UNIT_BYTES)).collect();
        all.push(Trace {
            name,
            requests,
            capacities,
        });
    };
    for alpha in [0.6, 0.8, 1.0, 1.2] {
        let keys = traces::zipf(20_000, alpha, count, 1);
        add(format!("zipf {alpha}"), of_keys(keys), &[200, 1000, 4000, 10_000]);
    }
    for alpha in [0.7, 0.9] {
        let keys = traces::zipf_and_scans(alpha, count, 2);
        add(
            format!("zipf {alpha} and scans"),
            of_keys(keys),
            &[500, 1000, 2000, 4000],
        );
    }
    let glimpse = traces::of_file(&tool("lirs-trace")?)?;
    add("glimpse (LIRS)".into(), of_keys(glimpse), &[250, 500, 1000, 1500, 2000]);
    let records = [100, 500, 2000, 5000];
    add(
        "YCSB C zipfian".into(),
        of_keys(traces::ycsb_zipfian(10_000, count)),
        &records,
    );
    add(
        "YCSB D latest".into(),
        of_keys(traces::ycsb_latest(10_000, count)),
        &records,
    );
    let scans = traces::ycsb_scans(10_000, count);
    add("YCSB E scans, small".into(), of_keys(scans), &records);
    let scans = traces::ycsb_scans(60_000, 600_000);
    add("YCSB E scans".into(), of_keys(scans), &[3000, 6000, 20_000]);
    add(
        "two pools (LRU-K)".into(),
        of_keys(traces::two_pools(count)),
        &[60, 100, 140, 450],
    );
    let items = traces::tpcc_items(count);
    add("TPC-C items".into(), of_keys(items), &[250, 1000, 2500, 5000, 10_000]);
    let similar = traces::self_similar(20_000, count);
    add(
        "self-similar 80-20".into(),
        of_keys(similar),
        &[200, 1000, 4000, 10_000],
    );
    add(
        "zipf that drifts".into(),
        of_keys(traces::drifting(count)),
        &[200, 1000, 4000, 10_000],
    );
    add(
        "objects of sizes".into(),
        traces::of_sizes(0.9, count),
        &[5000, 20_000, 100_000, 200_000],
    );
    Ok(all)
}

#[test]
fn auto_is_near_s3_fifo_and_near_the_best_and_lru_is_lru() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let traces = all_traces()?;
    let judged = judge(folder.path(), &traces)?;
    let mut judged = judged.chunks(JUDGED.len());
    println!("hit ratios by requests; auto's by bytes beside the best; {JUDGED:?}");
    let (mut broken, mut worst, mut worst_lru) = (Vec::new(), (0.0_f64, 0.0_f64), 0.0_f64);
    for trace in &traces {
        for capacity in &trace.capacities {
            let judged = judged.next().context("a line for each run")?;
            let auto = Cache::new(Auto::new(*capacity), *capacity).run(&trace.requests);
            let own = Cache::new(S3Fifo::new(*capacity), *capacity)
                .run(&trace.requests)
                .requests;
            let lru = Cache::new(Lru::new(*capacity), *capacity).run(&trace.requests).requests;
            worst_lru = worst_lru.min(lru - judged[LRU].requests);
            let best = judged.iter().map(|ratios| ratios.requests).fold(0.0, f64::max);
            let best_bytes = judged.iter().map(|ratios| ratios.bytes).fold(0.0, f64::max);
            let (to_s3_fifo, to_best) = (auto.requests - judged[S3_FIFO].requests, auto.requests - best);
            worst = (worst.0.min(to_s3_fifo), worst.1.min(to_best));
            let line = format!(
                "{:22} {:7} | auto {:.4} ({:+.4} S3-FIFO, {to_best:+.4} best) | our S3-FIFO {own:.4} | bytes {:.4} of {best_bytes:.4} | {:.4?}",
                trace.name,
                capacity / u64::from(UNIT_BYTES),
                auto.requests,
                to_s3_fifo,
                auto.bytes,
                judged.iter().map(|ratios| ratios.requests).collect::<Vec<_>>(),
            );
            println!("{line}");
            let is_ours = (own - judged[S3_FIFO].requests).abs() <= 0.02;
            if to_s3_fifo < -BELOW_S3_FIFO_MAX || to_best < -BELOW_BEST_MAX || !is_ours {
                broken.push(line);
            }
        }
    }
    println!("the worst: {:+.4} to S3-FIFO, {:+.4} to the best", worst.0, worst.1);
    println!("LRU in generations: {worst_lru:+.4} to LRU at the worst");
    ensure!(worst_lru >= -0.01, "LRU in generations is no LRU: {worst_lru}");
    ensure!(broken.is_empty(), "promises are broken:\n{}", broken.join("\n"));
    Ok(())
}

/// What the judge says: for each trace, each capacity and each of [`JUDGED`] the ratios.
fn judge(folder: &Path, traces: &[Trace]) -> anyhow::Result<Vec<Ratios>> {
    let mut runs = String::new();
    for (number, trace) in traces.iter().enumerate() {
        let path = folder.join(number.to_string());
        write_trace(&path, &trace.requests)?;
        for capacity in &trace.capacities {
            runs.extend(JUDGED.map(|policy| format!("{} {capacity} {policy}\n", path.display())));
        }
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policies/judge.py");
    let mut command = Command::new(tool("cache-judge")?);
    let command = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    // Dropped at once, so that the judge sees the end.
    child.stdin.take().context("a pipe")?.write_all(runs.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the judge failed");
    let ratios = |line: &str| -> anyhow::Result<Ratios> {
        let (requests, bytes) = line.split_once(' ').context("two numbers")?;
        Ok(Ratios {
            requests: requests.parse()?,
            bytes: bytes.parse()?,
        })
    };
    // What it warns of stands between the lines.
    let lines = String::from_utf8(output.stdout)?;
    let lines = lines
        .lines()
        .filter(|line| line.starts_with(|first: char| first.is_ascii_digit()));
    lines.map(ratios).collect()
}

/// libcachesim's oracleGeneral: time, id, size, and when it comes next, which the policies here do not look at.
fn write_trace(path: &Path, requests: &[Request]) -> anyhow::Result<()> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    for (time, Request { key, bytes }) in requests.iter().enumerate() {
        file.write_all(&(time as u32).to_le_bytes())?;
        file.write_all(&(key + 1).to_le_bytes())?;
        file.write_all(&bytes.to_le_bytes())?;
        file.write_all(&1_i64.to_le_bytes())?;
    }
    Ok(file.flush()?)
}

fn tool(name: &str) -> anyhow::Result<PathBuf> {
    let get = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/tools/get");
    let output = Command::new(get).arg(name).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "e2e/tools/get {name} failed");
    Ok(String::from_utf8(output.stdout)?.trim().into())
}
