//! A test in a process of its own: what it measures belongs to the whole process.

use std::process::Command;

const MARK: &str = "PENSTOCK_TEST_ALONE";

/// True in the process of its own. Elsewhere runs the test `name` in one, where at most `open_files` may be open.
pub fn alone(name: &str, open_files: u32) -> bool {
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "ulimit -n {open_files} && exec \"$0\" --exact {name} --nocapture"
        ))
        .arg(std::env::current_exe().unwrap())
        .env(MARK, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed in a process of its own: {status}");
    false
}
