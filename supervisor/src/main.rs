//! `penstock-supervisor PROGRAM [ARGUMENT ...]`: PID 1 of a container.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use penstock_descriptors as descriptors;
use penstock_supervisor::Kept;
use penstock_supervisor::letter::{Letter, SILENCE_MAX};
use penstock_supervisor::restart::{Next, Restarts};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

/// Starts a program again whenever it ends, and keeps the descriptors that it asks to keep. SIGTERM is passed on and
/// ends both.
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// The program with its arguments.
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<OsString>,
}

/// Heaps of the worker (mallopt(3)). By default glibc makes eight for each processor and gives little of them back: with
/// many short-lived threads that was 100 MB for a mounter with nothing mounted, and is 29 MB with two.
const MALLOC_ARENAS: &str = "2";

type Descriptors = Vec<OwnedFd>;

fn main() -> Result<ExitCode> {
    let Args { command } = Args::parse();
    tracing_subscriber::fmt().init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("start the runtime")?.block_on(supervise(&command))
}

async fn supervise(command: &[OsString]) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let (mut kept, mut restarts) = (Kept::default(), Restarts::default());
    loop {
        let started = Instant::now();
        let ended = match start(command) {
            Ok((mut worker, socket, process)) => {
                let listening = spawn_blocking(move || converse(&socket, &process, kept));
                let (status, ending) = tokio::select! {
                    status = worker.wait() => (status, false),
                    _ = terminate.recv() => {
                        pass_on_terminate(&worker);
                        (worker.wait().await, true)
                    }
                };
                let status = status.context("wait for the worker")?;
                if ending {
                    return Ok(exit_code(status));
                }
                kept = listening.await.context("the thread that listens to the worker")?;
                Ok(status)
            }
            // There may be too many processes or descriptors for a moment.
            Err(error) => Err(error),
        };
        match restarts.next(started.elapsed(), !kept.is_empty()) {
            Next::GiveUp => return ended.map(exit_code),
            Next::Start(pause) => {
                let kept = kept.entries().count();
                match ended {
                    Ok(status) => tracing::error!(%status, ?pause, kept, "the worker ended; it is started again"),
                    Err(error) => tracing::error!(?error, ?pause, kept, "the worker is not started; it is tried again"),
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
                }
            }
        }
    }
}

/// Starts a worker; with it come the socket to speak with it and a hold on it.
fn start(command: &[OsString]) -> Result<(Child, OwnedFd, OwnedFd)> {
    let (ours, theirs) = descriptors::pair().context("make a pair of sockets")?;
    let [program, arguments @ ..] = command else {
        anyhow::bail!("there is no program");
    };
    let worker = Command::new(program)
        .args(arguments)
        .stdin(theirs)
        .env("MALLOC_ARENA_MAX", MALLOC_ARENAS)
        .kill_on_drop(true)
        .spawn();
    let worker = worker.with_context(|| format!("start {}", program.display()))?;
    let process = pid_of(&worker).context("a worker that was just started has a number")?;
    let process = pidfd_open(process, PidfdFlags::empty()).context("hold on to the worker")?;
    Ok((worker, ours, process))
}

/// Gives a worker what is kept, and then does what it says until it ends.
fn converse(socket: &OwnedFd, process: &OwnedFd, mut kept: Kept<Descriptors>) -> Kept<Descriptors> {
    if let Err(error) = give(socket.as_fd(), &kept) {
        tracing::error!(%error, "the worker did not take its descriptors");
    }
    loop {
        match descriptors::receive(socket.as_fd()) {
            Ok(Some(packet)) => match Letter::decode(&packet.bytes) {
                Some(Letter::Alive) => {
                    // From now on it has to go on saying so.
                    let waits = set_socket_timeout(socket, Timeout::Recv, Some(SILENCE_MAX));
                    waits.unwrap_or_else(|error| tracing::error!(%error, "nobody notices if the worker hangs"));
                }
                Some(letter) => kept.note(letter, packet.descriptors),
                None => tracing::error!("a letter of the worker that nobody understands"),
            },
            Ok(None) => return kept,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tracing::error!(silent = ?SILENCE_MAX, "the worker hangs; it is killed");
                // It may have ended this moment; then the next packet is its last.
                let _ = pidfd_send_signal(process, Signal::KILL);
            }
            // It had descriptors for which this process has no room; the next letter may have none.
            Err(error) if error.kind() == ErrorKind::InvalidData => tracing::error!(%error, "a letter is lost"),
            // The worker ended without reading what it was given.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return kept,
            Err(error) => {
                tracing::error!(%error, "receive from the worker");
                return kept;
            }
        }
    }
}

fn give(socket: BorrowedFd<'_>, kept: &Kept<Descriptors>) -> std::io::Result<()> {
    for entry in kept.entries() {
        let descriptors: Vec<_> = entry.descriptors.iter().map(AsFd::as_fd).collect();
        descriptors::send(socket, &Letter::Keep(entry.id, entry.state).encode(), &descriptors)?;
    }
    descriptors::send(socket, &Letter::All.encode(), &[])
}

fn pass_on_terminate(worker: &Child) {
    // Without a number it has ended already.
    if let Some(Err(error)) = pid_of(worker).map(|pid| kill_process(pid, Signal::TERM)) {
        tracing::error!(%error, "pass SIGTERM on");
    }
}

fn pid_of(worker: &Child) -> Option<Pid> {
    worker.id().and_then(|pid| Pid::from_raw(pid as i32))
}

/// As shells have it: 128 more than the number of the signal that ended it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from)
}
