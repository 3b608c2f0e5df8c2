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
