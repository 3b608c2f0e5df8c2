//! One story in each form of a mount: read by all means, in use, killed, mounted again, unmounted by somebody else.

use std::process::{Command, Stdio};

use penstock_e2e::cluster::run;
use penstock_e2e::read_suite;
use rustix::process::Signal;

use crate::bucket::{Bucket, Caller, is_anything_mounted_below, scratch};

#[test]
fn erofs_from_a_file() {
    story(Caller::Root("file"), "file");
}

#[test]
fn erofs_on_loop_devices() {
    story(Caller::Root("loop"), "loop");
}

#[test]
fn a_fuse_file_system() {
    story(Caller::Root("fuse"), "fuse");
}

#[test]
fn a_fuse_file_system_of_a_user_without_root() {
    story(Caller::Nobody, "fuse");
}

fn story(caller: Caller, form: &str) {
    let bucket = Bucket::of(caller, read_suite::write);
    let target = bucket.target();
    let as_caller = |command: &mut Command| {
        caller.becomes(command);
        run(command).unwrap()
    };

    let mut first = bucket.mount();
    assert_eq!(bucket.status()["mount"], target.to_str().unwrap());
    let passed = as_caller(&mut read_suite::command(form, &bucket.files(), &target));
    assert!(passed.contains("ok tools"), "{passed}");
    let git = "GIT_OPTIONAL_LOCKS=0 git -c safe.directory='*' -c core.fileMode=false status --porcelain";
    let git = as_caller(
        Command::new("sh")
            .args(["-c", git])
            .current_dir("/")
            .env("GIT_DIR", target.join("repository/.git"))
            .env("GIT_WORK_TREE", target.join("repository")),
    );
    assert_eq!(git, "");

    // Somebody has a file open: it is said who, and it is served until then.
    let mut holder = Command::new("sh");
    caller.becomes(&mut holder);
    let mut holder = holder
        .args(["-c", "exec 3<\"$0\"; echo open; read line; cat <&3 | wc -c"])
        .arg(target.join("big.bin"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(holder.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    first.signal(Signal::TERM);
    first.wait_said("big.bin open");
    drop(holder.stdin.take());
    line.clear();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line.trim(), (4 << 20).to_string());
    holder.wait().unwrap();
    assert!(first.ended(), "{}", first.said());
    assert!(!is_anything_mounted_below(scratch(&bucket)));

    let mut killed = bucket.mount();
    killed.signal(Signal::KILL);
    assert!(!killed.ended());
    assert!(is_anything_mounted_below(scratch(&bucket)));
    let mut last = bucket.mount();
    last.wait_said("which a killed process had left");
    let mut unmount = match caller {
        Caller::Root(_) => Command::new("umount"),
        Caller::Nobody => Command::new("fusermount3"),
    };
    if caller == Caller::Nobody {
        unmount.arg("-u");
    }
    as_caller(unmount.arg(&target));
    assert!(last.ended(), "{}", last.said());
    assert!(!is_anything_mounted_below(scratch(&bucket)));
}
