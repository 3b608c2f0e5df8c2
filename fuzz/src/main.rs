//! Tries every target of [`penstock_fuzz`], each in a process of its own, as many at a time as there are processors.
//! `fuzz/run` builds and starts it.

mod coverage;
mod exploring;
mod failure;
mod memory;
mod mutation;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use penstock_fuzz::{TARGETS, Target};

use exploring::Explored;

/// For each target.
const SECONDS: u64 = 3;
const SECONDS_LONG: u64 = 300;

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        // As it is started by itself.
        ["--explore", target, note] => explore(named(target)?, note.as_ref()),
        ["--repeat", target, input, note] => {
            exploring::repeat(named(target)?, &std::fs::read(input)?, note.as_ref())?;
            Ok(ExitCode::SUCCESS)
        }
        [target, input] if named(input).is_err() => {
            let note = tempfile::NamedTempFile::new()?;
            exploring::repeat(named(target)?, &std::fs::read(input)?, note.path())?;
            println!("{target} reads {input} as it should");
            Ok(ExitCode::SUCCESS)
        }
        ref names => {
            let targets = if names.is_empty() {
                TARGETS.iter().collect()
            } else {
                names.iter().map(|name| named(name)).collect::<Result<Vec<_>, _>>()?
            };
            try_all(&targets)
        }
    }
}

fn named(name: &str) -> anyhow::Result<&'static Target> {
    let names = || TARGETS.map(|target| target.name).join(", ");
    let target = TARGETS.iter().find(|target| target.name == name);
    target.with_context(|| format!("there is no target {name:?}; there are {}", names()))
}

fn try_all(targets: &[&Target]) -> anyhow::Result<ExitCode> {
    let seed = number("PENSTOCK_SEED")?.unwrap_or_else(|| rand::random::<u32>().into());
    let (left, has_failed) = (Mutex::new(targets.iter()), AtomicBool::new(false));
    let at_a_time = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                loop {
                    let next = left.lock().ok().and_then(|mut left| left.next());
                    let Some(target) = next else { return };
                    if let Err(error) = try_one(target, seed) {
                        has_failed.store(true, Ordering::Relaxed);
                        eprintln!("{}: {error:#}", target.name);
                    }
                }
            });
        }
    });
    Ok(if has_failed.into_inner() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Tries a target in a process of its own.
fn try_one(target: &Target, seed: u64) -> anyhow::Result<()> {
    let note = tempfile::NamedTempFile::new()?;
    let output = Command::new(std::env::current_exe()?)
        .args(["--explore", target.name])
        .arg(note.path())
        .env("PENSTOCK_SEED", seed.to_string())
        .output()?;
    if output.status.success() {
        print!("{}", String::from_utf8_lossy(&output.stdout));
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let Some(input) = failure::noted(note.path())? else {
        bail!("{}: {said}", output.status);
    };
    let input = failure::shrunk(target, input)?;
    let kept = failure::write(&failures()?, target, &input)?;
    let kept = kept.display();
    Err(anyhow!(
        "{}: {said}\n    the input ({} bytes) is in {kept}\n    again: fuzz/run {} {kept}\n    the whole run: PENSTOCK_SEED={seed} \
         fuzz/run {}\n    keep it in fuzz/kept/{}/ once it is mended",
        output.status,
        input.len(),
        target.name,
        target.name,
        target.name
    ))
}

/// Where inputs that fail are written.
fn failures() -> anyhow::Result<PathBuf> {
    let itself = std::env::current_exe()?;
    Ok(itself.with_file_name("fuzz-failures"))
}

fn explore(target: &Target, note: &Path) -> anyhow::Result<ExitCode> {
    let is_long = std::env::var("PENSTOCK_LONG").is_ok_and(|long| long == "1");
    let seconds = number("PENSTOCK_FUZZ_SECONDS")?.unwrap_or(if is_long { SECONDS_LONG } else { SECONDS });
    let seed = number("PENSTOCK_SEED")?.context("there is no seed")?;
    let explored = exploring::explore(target, seed, Duration::from_secs(seconds), note)?;
    let Explored { inputs, kept, places } = explored;
    println!(
        "{}: {inputs} inputs in {seconds} s, of which {kept} came to {places} places (seed {seed})",
        target.name
    );
    Ok(ExitCode::SUCCESS)
}

fn number(variable: &str) -> anyhow::Result<Option<u64>> {
    let value = std::env::var(variable).ok();
    let number = value.map(|text| text.parse().with_context(|| format!("{variable} is no number")));
    number.transpose()
}
