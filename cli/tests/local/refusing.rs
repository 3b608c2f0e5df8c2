//! What goes wrong for people, and the sentence that they get.

use std::fs;

use penstock_e2e::manifests;

use crate::bucket::{Bucket, is_anything_mounted_below, scratch};

#[test]
fn wrong_keys_are_named_as_the_reason() {
    let bucket = Bucket::new();
    bucket.write_yaml(&manifests::secret_with("default", "not-the-key"), "sample");
    let said = bucket.refuses("ls", &[]);
    assert!(
        said.contains("refuses access") && said.contains("check the keys"),
        "{said}"
    );
    assert!(!said.contains("not-the-key"), "a secret must not be printed: {said}");
}

#[test]
fn a_bucket_that_does_not_exist_is_named() {
    let bucket = Bucket::new();
    bucket.write_yaml(&manifests::secret("default"), "smaple");
    let said = bucket.refuses("stat", &[]);
    assert!(said.contains("smaple"), "{said}");
}

#[test]
fn an_origin_that_cannot_be_reached_leaves_no_mount() {
    let bucket = Bucket::new();
    bucket.proxy.refuse(true);
    let (target, cache) = (bucket.target(), bucket.cache());
    let said = bucket.refuses(
        "mount",
        &[target.to_str().unwrap(), "--cache-dir", cache.to_str().unwrap()],
    );
    assert!(said.contains(&bucket.proxy.address.to_string()), "{said}");
    assert!(!is_anything_mounted_below(scratch(&bucket)));
}

#[test]
fn a_path_that_is_not_there_is_said() {
    let bucket = Bucket::new();
    let said = bucket.refuses("cat", &["no/such/file"]);
    assert!(said.contains("has no \"no/such/file\""), "{said}");
    let said = bucket.refuses("cat", &["train"]);
    assert!(said.contains("is a folder"), "{said}");
}

#[test]
fn a_file_that_is_no_dataset_is_refused_with_its_line() {
    let bucket = Bucket::new();
    for (text, sentence) in [
        ("kind: Pod\nmetadata: {name: x}\n", "no Dataset"),
        ("kind: Dataset\nmetadata: {name: [x\n", "line 2"),
        (
            "apiVersion: penstock.io/v1alpha1\nkind: Dataset\nmetadata: {name: x}\nspec:\n  sources:\n  - s3: {bukket: x}\n",
            "missing field `bucket`",
        ),
    ] {
        fs::write(bucket.yaml(), text).unwrap();
        let said = bucket.refuses("ls", &[]);
        assert!(said.contains(sentence), "{said}");
        assert!(said.contains("dataset.yaml"), "{said}");
    }
}

#[test]
fn check_tries_every_source_and_says_which_cannot_be_used() {
    let (bucket, folder) = (Bucket::new(), tempfile::tempdir().unwrap());
    fs::write(folder.path().join("file"), "x").unwrap();
    let path = folder.path().to_str().unwrap();
    bucket.add_source(&format!("{{path: mine, folder: {{path: {path}}}}}"));
    let said = String::from_utf8(bucket.prints("check", &[])).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert!(
        lines.len() == 2
            && lines[0].starts_with("ok      /  s3://sample/")
            && lines[0].contains("proven by its version"),
        "{said}"
    );
    assert!(
        lines[1].starts_with("ok      /mine") && lines[1].contains("1 objects"),
        "{said}"
    );

    bucket.add_source(&format!("{{path: none, folder: {{path: {path}/none}}}}"));
    bucket.proxy.refuse(true);
    let output = bucket.penstock("check", &[]);
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let failed: Vec<_> = out.lines().filter(|line| line.starts_with("FAILED")).collect();
    assert!(
        failed.len() == 2 && failed[0].contains("cannot be reached") && failed[1].contains("/none does not exist"),
        "{out}"
    );
    assert!(
        error.contains("2 of 3 sources cannot be used") && !output.status.success(),
        "{error}"
    );
    assert!(out.lines().any(|line| line.starts_with("ok      /mine")), "{out}");
}
