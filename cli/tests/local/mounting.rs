//! `penstock mount` and `penstock status`.

use std::fs::{self, File};
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};

use penstock_e2e::dataset;
use penstock_e2e::origin::WebServer;
use rustix::io::Errno;
use rustix::process::Signal;

use crate::bucket::{Bucket, is_anything_mounted_below, scratch};

#[test]
fn a_mount_shows_the_bucket_byte_for_byte_and_pulls_each_byte_once() {
    let bucket = Bucket::new();
    let expected = dataset::sums(&bucket.files()).unwrap();
    let mut mounted = bucket.mount();
    bucket.proxy.reset();
    assert_eq!(dataset::sums(&bucket.target()).unwrap(), expected);
    let bytes = dataset::total_bytes(&bucket.files()).unwrap();
    assert_eq!(bucket.proxy.bytes(), bytes);
    assert!(bucket.proxy.repeated().is_empty(), "{:?}", bucket.proxy.repeated());

    let status = mounted.status();
    assert_eq!(status["bytes"], bytes);
    assert_eq!(status["origin"]["bytes"], bytes);
    assert_eq!(status["files"], expected.len() as u64);
    assert!(status["cached"]["bytes"].as_u64() >= Some(bytes), "{status}");
    assert_eq!(status["faults"].as_array().map(Vec::len), Some(0), "{status}");

    mounted.signal(Signal::TERM);
    assert!(mounted.ended(), "{}", mounted.said());
    assert!(!is_anything_mounted_below(scratch(&bucket)));
}

#[test]
fn a_folder_of_a_web_server_stands_beside_the_bucket() {
    let (bucket, web) = (Bucket::new(), WebServer::rclone_on(Ipv4Addr::LOCALHOST.into()).unwrap());
    dataset::write(&web.folder().join("pub"), 40, 3 << 20).unwrap();
    bucket.add_source(&format!(
        "{{path: from/web, http: {{url: \"http://{}/pub\"}}}}",
        web.address
    ));
    let mut mounted = bucket.mount();
    let shown = bucket.target();
    let served = dataset::sums(&web.folder().join("pub")).unwrap();
    assert_eq!(dataset::sums(&shown.join("from/web")).unwrap(), served);
    let all = dataset::sums(&shown).unwrap().len();
    assert_eq!(all, served.len() + dataset::sums(&bucket.files()).unwrap().len());
    mounted.signal(Signal::TERM);
    assert!(mounted.ended(), "{}", mounted.said());
}

#[test]
fn a_folder_of_the_machine_is_mounted_in_part_and_for_the_user_that_is_named() {
    let (bucket, folder) = (Bucket::new(), tempfile::tempdir().unwrap());
    for (name, text) in [("a.csv", "one"), ("deep/b.csv", "two"), ("deep/b.tmp", "half")] {
        dataset::put(folder.path(), name, text.as_bytes()).unwrap();
    }
    bucket.add_source(&format!(
        "{{path: mine, folder: {{path: {:?}}}, include: ['*.csv', '*.tmp'], exclude: ['*.tmp']}}\n  ownership: {{uid: 1000, gid: 100, fileMode: '0440'}}",
        folder.path()
    ));
    let mut mounted = bucket.mount();
    let shown = bucket.target().join("mine");
    fs::remove_file(folder.path().join("deep/b.tmp")).unwrap();
    assert_eq!(dataset::sums(&shown).unwrap(), dataset::sums(folder.path()).unwrap());
    let file = fs::metadata(shown.join("deep/b.csv")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (1000, 100, 0o440));
    mounted.signal(Signal::TERM);
    assert!(mounted.ended(), "{}", mounted.said());
}

#[test]
fn the_next_mount_pulls_only_what_changed() {
    let bucket = Bucket::new();
    let mut first = bucket.mount();
    dataset::sums(&bucket.target()).unwrap();
    first.signal(Signal::INT);
    assert!(first.ended(), "{}", first.said());

    dataset::put(&bucket.files(), "odd names/with space.txt", b"another text").unwrap();
    dataset::put(&bucket.files(), "new/file", b"12345").unwrap();
    fs::remove_file(bucket.files().join("odd names/-dash")).unwrap();
    let expected = dataset::sums(&bucket.files()).unwrap();
    bucket.wait_listed(&["odd names/with space.txt", "new/file"]);
    bucket.proxy.reset();
    let mut second = bucket.mount();
    assert_eq!(dataset::sums(&bucket.target()).unwrap(), expected);
    assert_eq!(bucket.proxy.bytes(), (b"another text".len() + b"12345".len()) as u64);
    second.signal(Signal::TERM);
    assert!(second.ended(), "{}", second.said());
}

#[test]
fn a_kill_leaves_nothing_that_the_next_mount_does_not_clear() {
    let bucket = Bucket::new();
    let expected = dataset::sums(&bucket.files()).unwrap();
    let mut killed = bucket.mount();
    dataset::sums(&bucket.target()).unwrap();
    killed.signal(Signal::KILL);
    assert!(!killed.ended());
    assert!(is_anything_mounted_below(scratch(&bucket)));

    bucket.proxy.reset();
    let mut next = bucket.mount();
    assert_eq!(dataset::sums(&bucket.target()).unwrap(), expected);
    assert_eq!(bucket.proxy.bytes(), 0, "the cache outlives its process");
    next.wait_said("which a killed process had left");
    next.signal(Signal::TERM);
    assert!(next.ended(), "{}", next.said());
    assert!(!is_anything_mounted_below(scratch(&bucket)));
}

#[test]
fn an_unmount_by_somebody_else_ends_it() {
    let bucket = Bucket::new();
    let mut mounted = bucket.mount();
    let unmounted = Command::new("umount").arg(bucket.target()).status().unwrap();
    assert!(unmounted.success());
    assert!(mounted.ended(), "{}", mounted.said());
    assert!(!is_anything_mounted_below(scratch(&bucket)));
}

#[test]
fn an_aborted_connection_is_taken_down_and_said() {
    let bucket = Bucket::new();
    let mut mounted = bucket.mount();
    let table = penstock_mount::table::read().unwrap();
    let space = table
        .iter()
        .find(|mount| mount.target.starts_with(bucket.cache()) && mount.file_system.starts_with("fuse"))
        .unwrap();
    penstock_mount::fuse::abort(space.device.1).unwrap();
    assert!(!mounted.ended());
    assert!(mounted.said().contains("aborted the connection"), "{}", mounted.said());
    assert!(!is_anything_mounted_below(scratch(&bucket)));
}

#[test]
fn a_busy_mount_says_who_uses_it_and_is_served_until_they_end() {
    let bucket = Bucket::new();
    let mut mounted = bucket.mount();
    let mut open = File::open(bucket.target().join("big.bin")).unwrap();
    mounted.signal(Signal::TERM);
    mounted.wait_said("big.bin open");
    mounted.wait_said(&format!("process {}", std::process::id()));
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert!(bytes == fs::read(bucket.files().join("big.bin")).unwrap());
    drop(open);
    assert!(mounted.ended(), "{}", mounted.said());
    assert!(!is_anything_mounted_below(scratch(&bucket)));
}

#[test]
fn asked_twice_it_ends_though_a_file_is_open() {
    let bucket = Bucket::new();
    let mut mounted = bucket.mount();
    let open = File::open(bucket.target().join("big.bin")).unwrap();
    mounted.signal(Signal::TERM);
    mounted.wait_said("Ctrl-C again");
    mounted.signal(Signal::TERM);
    mounted.wait_said("Ctrl-C ends it now");
    mounted.signal(Signal::TERM);
    assert!(mounted.ended(), "{}", mounted.said());
    drop(open);
    assert!(!is_anything_mounted_below(scratch(&bucket)));
}

#[test]
fn a_second_mount_of_the_same_cache_is_refused() {
    let bucket = Bucket::new();
    let mounted = bucket.mount();
    let other = scratch(&bucket).join("other");
    fs::create_dir(&other).unwrap();
    let (other, cache) = (other.to_str().unwrap(), bucket.cache());
    let said = bucket.refuses("mount", &[other, "--cache-dir", cache.to_str().unwrap()]);
    assert!(said.contains("in use by the mount on"), "{said}");
    drop(mounted);
}

#[test]
fn reads_of_a_bucket_that_is_gone_fail_after_the_datasets_patience() {
    let mut bucket = Bucket::new();
    let yaml = fs::read_to_string(bucket.yaml()).unwrap();
    fs::write(bucket.yaml(), format!("{yaml}  readTimeoutSeconds: 1\n")).unwrap();
    let mounted = bucket.mount();
    bucket.end_server();
    let started = Instant::now();
    let read = fs::read(bucket.target().join("big.bin"));
    assert_eq!(read.unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    drop(mounted);
}
