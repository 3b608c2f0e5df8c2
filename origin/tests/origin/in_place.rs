//! Files of web servers that are written to in place: in the second in which they were listed, and while they are sent.

use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::{StreamExt, TryStreamExt};
use penstock_e2e::origin::{Nginx, NginxOptions};
use penstock_origin::limits::{AT_ONCE_BYTES_MAX, HELD_BACK_BYTES_MAX, HTTP_QUESTIONS_MAX};
use penstock_origin::meter::{Kind, Tally};
use penstock_origin::{Environment, Origin, OriginError, Reach, client_within};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion, Version};

use crate::web::{How, Web, content, origin, read};

/// More than the kernel keeps of what nobody takes, between two processes of a machine.
const LARGE_BYTES: usize = 32 << 20;

fn nginx() -> Nginx {
    Nginx::on(Ipv4Addr::LOCALHOST.into(), NginxOptions::default()).unwrap()
}

async fn only(origin: &dyn Origin) -> Listed {
    let [listed] = origin.list_all().await.unwrap().try_into().unwrap();
    listed
}

fn object(listed: &Listed) -> ObjectVersion {
    ObjectVersion {
        source: 0,
        key: listed.key.clone(),
        version: listed.version.clone(),
    }
}

/// Writes a file as it was changed long ago.
fn write_old(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    let long_ago = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(long_ago).unwrap();
}

/// Writes other bytes to the same file, as many.
fn overwrite(path: &Path, bytes: &[u8]) {
    let mut file = File::options().write(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

fn second() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_again_after_it_was_listed_is_another_version() {
    let server = nginx();
    let origin = origin(&server.url(), &["file"]).unwrap();
    let path = server.folder().join("file");
    std::fs::write(&path, content("file")).unwrap();
    let written_at = std::fs::metadata(&path).unwrap().modified().unwrap();
    let before = only(&origin).await;
    assert!(matches!(before.version, Version::ETag(_)), "{before:?}");
    // Its tag is made of the second and the length: what is written from now on has another one.
    assert!(second() > written_at.duration_since(UNIX_EPOCH).unwrap().as_secs());
    overwrite(&path, &content("life"));
    let error = read(&origin, &before).await.unwrap_err();
    assert!(matches!(error, OriginError::Drifted(_)), "{error}");
    let after = only(&origin).await;
    assert_ne!(after.version, before.version);
    assert_eq!(read(&origin, &after).await.unwrap(), content("life"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_of_a_file_that_changed_in_the_second_of_the_answer_is_asked_for_again() {
    let web = Web::with(How::TagsOfJustNow, &["file"]).await;
    let listed = only(&web.origin(&[])).await;
    assert!(matches!(listed.version, Version::ETag(_)), "{listed:?}");
    assert_eq!(web.asked("HEAD"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_of_a_program_are_taken_though_its_last_change_is_always_the_present() {
    let names: Vec<_> = (0..60).map(|number| number.to_string()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let web = Web::with(How::TagsAndPresent, &names).await;
    let listed = web.origin(&[]).list_all().await.unwrap();
    assert_eq!(listed.len(), names.len());
    assert!(listed.iter().all(|one| matches!(one.version, Version::ETag(_))));
    // Those that were asked for before it was known.
    let asked = web.asked("HEAD");
    assert!(asked <= names.len() + HTTP_QUESTIONS_MAX, "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_is_wrong_when_it_is_asked_for_is_told_from_a_change() {
    let web = Web::with(How::TagsOfLonger, &["file"]).await;
    let origin = web.origin(&[]);
    let listed = only(&origin).await;
    let part = origin.read(&object(&listed), listed.bytes, 0..5).await.err().unwrap();
    assert!(
        matches!(&part, OriginError::Invalid(text) if text.contains("lists file with another length than it has")),
        "{part}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_overwritten_in_place_while_it_is_sent_is_drift() {
    let server = nginx();
    let (old, new) = (vec![b'a'; LARGE_BYTES], vec![b'b'; LARGE_BYTES]);
    let path = server.folder().join("file");
    write_old(&path, &old);
    let origin = origin(&server.url(), &["file"]).unwrap();
    let listed = only(&origin).await;
    let mut body = origin
        .read(&object(&listed), listed.bytes, 0..listed.bytes)
        .await
        .unwrap();
    let mut came = Vec::new();
    while came.is_empty() {
        came.extend(body.next().await.unwrap().unwrap());
    }
    overwrite(&path, &new);
    let error = loop {
        match body.next().await {
            Some(Ok(piece)) => came.extend(piece),
            Some(Err(error)) => break error,
            None => panic!(
                "{} bytes were passed on, {} of them new",
                came.len(),
                came.iter().filter(|byte| **byte == b'b').count()
            ),
        }
    };
    assert!(matches!(error, OriginError::Drifted(_)), "{error}");
    assert!(came == old[..came.len()], "none of the new bytes was passed on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_looked_at_again_as_often_as_that_counts_and_no_more() {
    let server = nginx();
    let bytes = HELD_BACK_BYTES_MAX * 5 / 2;
    let old: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
    write_old(&server.folder().join("file"), &old);
    let source = wire::Source {
        origin: Some(wire::source::Origin::Http(wire::Http {
            url: server.url(),
            files: vec!["file".into()],
            ..Default::default()
        })),
        ..Default::default()
    };
    let tally = Tally::default();
    let origin: Arc<dyn Origin> = client_within(&source, &Environment::default(), &Reach::default(), &tally).unwrap();
    let listed = only(&*origin).await;
    let count = |kind| {
        tally
            .asked()
            .iter()
            .find(|asked| asked.1 == kind)
            .map_or(0, |asked| asked.2)
    };
    let listing = count(Kind::List);
    for (range, looks) in [
        (0..AT_ONCE_BYTES_MAX, 0),
        (0..AT_ONCE_BYTES_MAX + 1, 1),
        (bytes as u64 - 1..bytes as u64, 0),
    ] {
        let before = count(Kind::Read);
        let body = origin
            .read(&object(&listed), listed.bytes, range.clone())
            .await
            .unwrap();
        let came = body.try_collect::<Vec<_>>().await.unwrap().concat();
        assert!(came == old[range.start as usize..range.end as usize], "{range:?}");
        assert_eq!(count(Kind::Read) - before, 1 + looks, "{range:?}");
    }
    let before = count(Kind::Read);
    let body = origin
        .read(&object(&listed), listed.bytes, 0..listed.bytes)
        .await
        .unwrap();
    assert!(body.try_collect::<Vec<_>>().await.unwrap().concat() == old);
    // Once for each MiB that is full, and in the end.
    assert_eq!(count(Kind::Read) - before, 1 + 3);
    assert_eq!(count(Kind::List), listing, "all of it belongs to reads");
}
