//! The supervisor as a process, with shells and `tests/worker` as workers.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Tells workers the folder of the test.
const FOLDER: &str = "PENSTOCK_TEST_FOLDER";

struct Supervisor(Child);

impl Supervisor {
    fn start(arguments: &[&str], folder: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_penstock-supervisor"))
            .args(arguments)
            .env(FOLDER, folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Runs a worker of `tests/worker`.
    fn of(worker: &str, folder: &Path) -> Self {
        Self::start(&[env!("CARGO_BIN_EXE_penstock-test-worker"), worker], folder)
    }

    fn terminate(&mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Its number is its own until it was waited for.
        if let Ok(None) = self.0.try_wait() {
            self.terminate();
        }
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(30), "waited for {what}");
        std::thread::yield_now();
    }
}

fn lives(folder: &Path) -> usize {
    let text = fs::read_to_string(folder.join("lives")).unwrap_or_default();
    text.lines().count()
}

#[test]
fn the_code_of_a_worker_that_cannot_start_becomes_the_containers() {
    let folder = tempfile::tempdir().unwrap();
    let mut supervisor = Supervisor::start(&["/bin/sh", "-c", "exit 7"], folder.path());
    assert_eq!(supervisor.0.wait().unwrap().code(), Some(7));
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_penstock-supervisor"))
        .arg("/nowhere/at/all")
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/at/all"));
}

#[test]
fn sigterm_is_passed_on_and_ends_both() {
    let folder = tempfile::tempdir().unwrap();
    let line = "trap 'echo ended > \"$PENSTOCK_TEST_FOLDER/ended\"; exit 0' TERM; touch \"$PENSTOCK_TEST_FOLDER/lives\"; \
                while :; do sleep 0.01; done";
    let mut supervisor = Supervisor::start(&["/bin/sh", "-c", line], folder.path());
    until("the worker", || folder.path().join("lives").exists());
    assert!(supervisor.terminate().success());
    assert!(folder.path().join("ended").exists());
}

#[test]
fn a_killed_worker_is_started_again_with_its_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let mut supervisor = Supervisor::of("keep-a-file", folder.path());
    for life in 1..=3 {
        until("a life", || folder.path().join(format!("done-{life}")).exists());
        let lives = fs::read_to_string(folder.path().join("lives")).unwrap();
        let worker = lives.lines().last().unwrap().parse().unwrap();
        kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL).unwrap();
    }
    until("the last life", || folder.path().join("done-4").exists());
    supervisor.terminate();
    assert_eq!(fs::read_to_string(folder.path().join("done-1")).unwrap(), "");
    // What the first wrote into a file without a name, and the third forgot.
    assert_eq!(
        fs::read_to_string(folder.path().join("done-2")).unwrap(),
        "content of life 1"
    );
    assert_eq!(
        fs::read_to_string(folder.path().join("done-3")).unwrap(),
        "content of life 1"
    );
    assert_eq!(fs::read_to_string(folder.path().join("done-4")).unwrap(), "");
}

#[test]
fn a_worker_that_spoke_and_is_silent_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut supervisor = Supervisor::of("hang-once", folder.path());
    until("the second life", || lives(folder.path()) == 2);
    supervisor.terminate();
}
