//! Folders of web servers whose files a manifest names, with their checksums.

use std::fmt::Write;

use futures::TryStreamExt;
use futures::future::try_join_all;
use penstock_origin::http::HttpOrigin;
use penstock_origin::{Network, Origin, OriginError, proof, proven};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion, Version};
use sha2::{Digest, Sha256};

use crate::web::{How, Web, content, read};

const MANIFEST: &str = "SHA256SUMS";
/// More than is compared with its checksum.
const LARGE: usize = (1 << 20) + 1;

fn line(name: &str, bytes: &[u8]) -> String {
    let mut line = String::new();
    for byte in Sha256::digest(bytes) {
        write!(line, "{byte:02x}").unwrap();
    }
    line + "  " + name + "\n"
}

/// A server of these files, and a manifest of the first so many of them.
async fn with(how: How, names: &[&str], in_manifest: usize) -> Web {
    let web = Web::with(how, names).await;
    let lines = names[..in_manifest].iter().map(|name| line(name, &content(name)));
    web.put(MANIFEST, lines.collect::<String>().as_bytes());
    web
}

fn allowing(web: &Web, unversioned: &[&str]) -> HttpOrigin {
    let config = wire::Http {
        url: web.url.clone(),
        manifest: MANIFEST.to_owned(),
        unversioned: unversioned.iter().map(|pattern| (*pattern).to_owned()).collect(),
        ..Default::default()
    };
    HttpOrigin::new(config, &Network::default()).unwrap()
}

fn origin(web: &Web) -> HttpOrigin {
    allowing(web, &[])
}

async fn only(origin: &HttpOrigin) -> Listed {
    let [listed] = origin.list_all().await.unwrap().try_into().unwrap();
    listed
}

async fn read_range(origin: &HttpOrigin, listed: &Listed, range: std::ops::Range<u64>) -> Result<Vec<u8>, OriginError> {
    let object = ObjectVersion {
        source: 0,
        key: listed.key.clone(),
        version: listed.version.clone(),
    };
    let body = origin.read(&object, listed.bytes, range).await?;
    Ok(body.try_collect::<Vec<_>>().await?.concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_manifest_are_those_of_the_source() {
    for how in [How::Tags, How::Times, How::NoVersion, How::NoPages] {
        let web = with(how, &["a b", "deep/é", "z", "not named"], 3).await;
        let origin = origin(&web);
        let listed = origin.list_all().await.unwrap();
        let keys: Vec<_> = listed.iter().map(|one| one.key.as_str()).collect();
        assert_eq!(keys, ["a b", "deep/é", "z"]);
        assert_eq!(
            (web.asked("HEAD"), web.asked("GET")),
            (3, 2),
            "once each, and the manifest before and after"
        );
        for one in &listed {
            let Version::Id(id) = &one.version else {
                panic!("{one:?}")
            };
            assert!(id.contains("sha256:") && !one.version.is_unversioned(), "{id}");
            assert!(proof(one).contains("checksum"), "{}", proof(one));
            assert_eq!(read(&origin, one).await.unwrap(), content(&one.key));
            for range in [0..1, 5..17, one.bytes - 1..one.bytes] {
                let part = &content(&one.key)[range.start as usize..range.end as usize];
                assert_eq!(
                    read_range(&origin, one, range.clone()).await.unwrap(),
                    part,
                    "{range:?}"
                );
            }
        }
        assert_eq!(
            origin.list_all().await.unwrap(),
            listed,
            "what does not change is listed as it was"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_checksum_is_another_version() {
    for how in [How::Tags, How::Times, How::NoVersion] {
        let web = with(how, &["file", "other"], 1).await;
        let origin = origin(&web);
        let before = only(&origin).await;
        web.put(MANIFEST, line("file", b"something else").as_bytes());
        let after = only(&origin).await;
        assert_eq!(
            (after.bytes, after.modified_unix_nanos),
            (before.bytes, before.modified_unix_nanos)
        );
        assert_ne!(after.version, before.version);
        // Of a file that the server says nothing of the manifest shows that it changed.
        web.put("file", &content("life"));
        web.put(MANIFEST, line("file", &content("life")).as_bytes());
        let error = read(&origin, &before).await.unwrap_err();
        assert!(matches!(error, OriginError::Drifted(_)), "{how:?}: {error}");
        let changed = only(&origin).await;
        assert_ne!(changed.version, before.version);
        assert_eq!(read(&origin, &changed).await.unwrap(), content("life"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_is_not_believed_that_does_not_have_its_checksum() {
    let web = with(How::Tags, &["file"], 0).await;
    web.put(MANIFEST, line("file", b"what it was meant to be").as_bytes());
    let origin = origin(&web);
    let listed = only(&origin).await;
    for range in [0..1, 0..listed.bytes] {
        let error = read_range(&origin, &listed, range).await.unwrap_err();
        assert!(matches!(error, OriginError::Other(_)), "{error:?}");
        assert!(
            error
                .to_string()
                .contains("bytes of file that do not match its checksum in the manifest"),
            "{error}"
        );
    }
    // First contact sees it.
    let contact: Result<Vec<_>, _> = proven(&origin).try_concat().await;
    assert!(matches!(contact, Err(OriginError::Other(_))), "{contact:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_read_by_its_version_and_without_one_refused() {
    let bytes: Vec<u8> = (0..LARGE).map(|at| (at % 251) as u8).collect();
    for (how, allowed) in [(How::Tags, false), (How::Times, false), (How::NoVersion, true)] {
        let web = with(how, &[], 0).await;
        web.put("large", &bytes);
        // Which is not compared.
        web.put(MANIFEST, line("large", b"").as_bytes());
        let origin = allowing(&web, if allowed { &["large"] } else { &[] });
        let listed = only(&origin).await;
        assert_eq!(listed.version.is_unversioned(), allowed, "{listed:?}");
        let end = LARGE as u64;
        for range in [0..1, 4095..4097, end - 1..end] {
            let part = &bytes[range.start as usize..range.end as usize];
            assert_eq!(
                read_range(&origin, &listed, range.clone()).await.unwrap(),
                part,
                "{how:?} {range:?}"
            );
        }
        web.put(MANIFEST, line("large", b"changed").as_bytes());
        assert_ne!(only(&origin).await.version, listed.version);
    }
    let web = with(How::NoVersion, &[], 0).await;
    web.put("large", &bytes);
    web.put(MANIFEST, line("large", &bytes).as_bytes());
    let error = origin(&web).list_all().await.unwrap_err().to_string();
    assert!(
        error.contains("large, which is too large to be compared with its checksum"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_a_promise() {
    let web = with(How::Tags, &["a", "deep/b", "c"], 3).await;
    web.remove("deep/b");
    let error = origin(&web).list_all().await.unwrap_err();
    let says = "/pub/deep/b does not exist, and the manifest SHA256SUMS names it";
    assert!(
        matches!(&error, OriginError::NotFound(text) if text.contains(says)),
        "{error}"
    );
    web.remove(MANIFEST);
    let error = origin(&web).list_all().await.unwrap_err();
    let says = "/pub/SHA256SUMS does not exist; check the URL and the manifest";
    assert!(
        matches!(&error, OriginError::NotFound(text) if text.contains(says)),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_manifest_is_said_with_its_line() {
    let web = with(How::Tags, &["a"], 1).await;
    let itself = line(MANIFEST, b"");
    for (text, says) in [
        (
            line("a", b"") + &line("../b", b""),
            "/pub/SHA256SUMS is no manifest: line 2 names \"../b\"",
        ),
        ("# nothing\n\n".to_owned(), "/pub/SHA256SUMS names no files"),
        (itself.clone(), "/pub/SHA256SUMS names no files"),
    ] {
        web.put(MANIFEST, text.as_bytes());
        let error = origin(&web).list_all().await.unwrap_err();
        assert!(
            matches!(&error, OriginError::Invalid(said) if said.contains(says)),
            "{error}"
        );
    }
    // As `sha256sum * > SHA256SUMS` writes one.
    web.put(MANIFEST, (itself + &line("a", &content("a"))).as_bytes());
    assert_eq!(only(&origin(&web)).await.key, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_changes_while_its_files_are_looked_at_is_not_believed() {
    let web = with(How::MovingManifest, &["a", "b"], 2).await;
    let error = origin(&web).list_all().await.unwrap_err();
    assert!(
        error.may_pass() && error.to_string().contains("SHA256SUMS changed while"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_manifest_is_held_at_a_time() {
    let web = with(How::Tags, &["a", "b"], 2).await;
    let origins = [(); 8].map(|()| origin(&web));
    let listed = try_join_all(origins.iter().map(Origin::list_all)).await.unwrap();
    assert!(listed.iter().all(|listed| listed.len() == 2), "{listed:?}");
    // The next is read when both files of the one before have been asked for. None is held when it is read again.
    let mut left = 0;
    for method in web.methods() {
        match method.as_str() {
            "HEAD" => left -= 1,
            _ if left == 0 => left = 2,
            _ => {}
        }
        assert!(left >= 0, "several are held: {:?}", web.methods());
    }
}

#[test]
fn what_is_no_path_of_a_manifest_is_refused() {
    for (manifest, files, says) in [
        ("../SHA256SUMS", vec![], "\"../SHA256SUMS\" is no path of a file"),
        ("/SHA256SUMS", vec![], "\"/SHA256SUMS\" is no path of a file"),
        (
            MANIFEST,
            vec!["a".to_owned()],
            "named one by one or by a manifest, not both",
        ),
    ] {
        let config = wire::Http {
            url: "http://host/".to_owned(),
            manifest: manifest.to_owned(),
            files,
            ..Default::default()
        };
        let error = HttpOrigin::new(config, &Network::default()).err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}
