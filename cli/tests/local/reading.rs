//! `penstock ls`, `stat` and `cat`: without a mount.

use std::fs;

use penstock_e2e::dataset;
use serde_json::Value;

use crate::bucket::{BIG_BYTES, Bucket};

#[test]
fn ls_lists_what_is_in_the_bucket() {
    let bucket = Bucket::new();
    let listed = String::from_utf8(bucket.prints("ls", &[])).unwrap();
    assert_eq!(listed, "big.bin\nodd names/\ntrain/\n");
    let all: Value = serde_json::from_slice(&bucket.prints("ls", &["-R", "-o", "json"])).unwrap();
    let mut files: Vec<_> = all["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["kind"] == "file")
        .map(|entry| format!("./{}", entry["path"].as_str().unwrap()))
        .collect();
    files.sort();
    let expected: Vec<_> = dataset::sums(&bucket.files()).unwrap().into_keys().collect();
    assert_eq!(files, expected);
    assert_eq!(bucket.proxy.bytes(), 0, "names cost no bytes of objects");
}

#[test]
fn a_full_disk_behind_the_output_is_an_error_and_a_reader_that_left_is_none() {
    let bucket = Bucket::new();
    let yaml = bucket.yaml();
    let line = |command: &str| format!("set -o pipefail; {} {command}", env!("CARGO_BIN_EXE_penstock"));
    let shell = |line: String| {
        let mut bash = std::process::Command::new("bash");
        bash.args(["-c", &line]).env("HOME", bucket.cache()).output().unwrap()
    };
    let yaml = yaml.display();
    for command in ["ls", "stat", "cat"] {
        let path = if command == "cat" {
            "'odd names/with space.txt'"
        } else {
            ""
        };
        let full = shell(line(&format!("{command} {yaml} {path} > /dev/full")));
        let said = String::from_utf8_lossy(&full.stderr);
        assert!(
            !full.status.success() && said.contains("No space left"),
            "{command}: {said}"
        );
    }
    for command in [
        format!("ls -R {yaml}"),
        format!("stat {yaml}"),
        format!("cat {yaml} big.bin"),
    ] {
        let left = shell(line(&format!("{command} | true")));
        let said = String::from_utf8_lossy(&left.stderr);
        assert!(left.status.success() && said.is_empty(), "{command}: {said}");
    }
}

#[test]
fn stat_shows_the_object_behind_a_file() {
    let bucket = Bucket::new();
    let file: Value = serde_json::from_slice(&bucket.prints("stat", &["big.bin", "-o", "json"])).unwrap();
    assert_eq!(file["bytes"], BIG_BYTES as u64);
    assert_eq!(file["key"], "big.bin");
    assert!(file["etag"].is_string(), "{file}");
    let whole = String::from_utf8(bucket.prints("stat", &[])).unwrap();
    assert!(whole.contains("files  158"), "{whole}");
}

#[test]
fn cat_writes_the_bytes_also_beside_a_running_mount() {
    let bucket = Bucket::new();
    let cache = bucket.cache();
    let arguments = [
        "big.bin",
        "odd names/with space.txt",
        "--cache-dir",
        cache.to_str().unwrap(),
    ];
    let mut expected = fs::read(bucket.files().join("big.bin")).unwrap();
    expected.extend(fs::read(bucket.files().join("odd names/with space.txt")).unwrap());
    assert!(bucket.prints("cat", &arguments) == expected);
    let mounted = bucket.mount();
    assert!(bucket.prints("cat", &arguments) == expected);
    drop(mounted);
}
