//! What an S3 origin lists is what the bucket holds, key for key, and each of it can be read.

use std::time::Duration;

use futures::TryStreamExt;
use penstock_e2e::origin::{ACCESS_KEY, S3Server, SECRET_KEY};
use penstock_origin::fake::FakeOrigin;
use penstock_origin::s3::S3Origin;
use penstock_origin::{Network, Origin, OriginError, contact, proven};
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::ids::SpaceId;
use penstock_revision::{BuildOptions, Listed, ObjectVersion, Outcome, SourceListing, Version, build};

use penstock_origin::fake_bucket::{Bucket, Lie, tag};

/// Keys that clients of S3 are known to spoil.
const KEYS: [&str; 16] = [
    "a",
    "/a",
    "//a",
    "a/",
    "a//b",
    " a ",
    "a b+c&d<e%20",
    "a/b/",
    "ä/ü",
    "\u{1}\n",
    "list",
    "%2E%2E/a",
    "a\\b",
    "~",
    "?x#y",
    "prefix//x",
];

async fn bytes_of(origin: &S3Origin, listed: &Listed) -> Result<Vec<u8>, OriginError> {
    let object = ObjectVersion {
        source: 0,
        key: listed.key.clone(),
        version: listed.version.clone(),
    };
    let body = origin.read(&object, listed.bytes, 0..listed.bytes).await?;
    let pieces: Vec<_> = body.try_collect().await?;
    Ok(pieces.concat())
}

async fn keys_of(origin: &S3Origin) -> Vec<String> {
    let mut keys: Vec<_> = origin
        .list_all()
        .await
        .unwrap()
        .into_iter()
        .map(|listed| listed.key)
        .collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn every_key_of_a_bucket_is_listed_as_it_is_and_can_be_read() {
    let bucket = Bucket::with(&KEYS).await;
    let origin = bucket.origin("");
    let mut expected = KEYS.map(str::to_owned);
    expected.sort_unstable();
    assert_eq!(keys_of(&origin).await, expected);
    for listed in origin.list_all().await.unwrap() {
        let bytes = listed.key.as_bytes();
        assert_eq!(listed.bytes, bytes.len() as u64, "{:?}", listed.key);
        assert_eq!(listed.version, Version::ETag(tag(bytes)), "{:?}", listed.key);
        assert_eq!(listed.modified_unix_nanos, 1_767_323_045_678_000_000);
        assert_eq!(bytes_of(&origin, &listed).await.unwrap(), bytes, "{:?}", listed.key);
    }
}

#[tokio::test]
async fn a_prefix_selects_the_keys_that_begin_with_it_whatever_it_looks_like() {
    let bucket = Bucket::with(&KEYS).await;
    for prefix in ["a", "a/", "a//", "prefix//", " ", " a", "/", "//", "ä/", "a b+", "%2E"] {
        let origin = bucket.origin(prefix);
        let mut expected: Vec<&str> = KEYS.iter().filter_map(|key| key.strip_prefix(prefix)).collect();
        expected.sort_unstable();
        assert_eq!(keys_of(&origin).await, expected, "{prefix:?}");
        for listed in origin.list_all().await.unwrap() {
            let whole = format!("{prefix}{}", listed.key);
            assert_eq!(bytes_of(&origin, &listed).await.unwrap(), whole.as_bytes(), "{whole:?}");
        }
    }
}

#[tokio::test]
async fn what_begins_as_asked_is_listed_and_nothing_else() {
    let many = (0..200).map(|number| format!("a/n{number:03}"));
    let keys: Vec<String> = KEYS.map(str::to_owned).into_iter().chain(many).collect();
    let bucket = Bucket::with(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (prefix, start) in [
        ("", "a"),
        ("", "a/"),
        ("", "a/n1"),
        ("", "a/n17"),
        ("a/", "n1"),
        ("a/", "b"),
        ("", "/"),
        ("", "\u{1}"),
        ("", "none"),
        ("prefix/", "/x"),
    ] {
        let origin = bucket.origin(prefix);
        let below: Vec<Listed> = origin.list_below(start).unwrap().try_concat().await.unwrap();
        let mut found: Vec<String> = below.into_iter().map(|listed| listed.key).collect();
        found.sort_unstable();
        let expected: Vec<String> = keys_of(&origin)
            .await
            .into_iter()
            .filter(|key| key.starts_with(start))
            .collect();
        assert_eq!(found, expected, "{start:?} below {prefix:?}");
    }
    let lying = Bucket::lying(Lie::IgnoresPrefix, &["x", "a/1"]).await;
    let below: Result<Vec<Listed>, _> = lying.origin("").list_below("a/").unwrap().try_concat().await;
    assert!(matches!(below, Err(OriginError::Invalid(_))), "{below:?}");
}

#[tokio::test]
async fn many_keys_are_listed_in_ranges_each_once_and_with_few_requests() {
    let numbered = (0..300).map(|number| format!("train/n{:03}/{number}", number % 90));
    let odd = (0..100).flat_map(|number| KEYS.map(|key| format!("{key}{number}")));
    let keys: Vec<String> = numbered.chain(odd).filter(|key| !key.contains('\u{1}')).collect();
    let bucket = Bucket::with(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for prefix in ["", "train/", "a"] {
        let mut expected: Vec<&str> = keys.iter().filter_map(|key| key.strip_prefix(prefix)).collect();
        expected.sort_unstable();
        let (before, asked_before) = (bucket.listed(), bucket.asked());
        assert_eq!(keys_of(&bucket.origin(prefix)).await, expected, "{prefix:?}");
        let (requests, fewest) = (bucket.listed() - before, expected.len().div_ceil(3));
        assert_eq!(bucket.asked() - asked_before, requests, "nothing is asked but pages");
        assert!(
            requests * 10 <= fewest * 11 + 20,
            "{requests} requests in the place of {fewest}"
        );
        assert!(requests > fewest, "more than one range");
    }
}

#[tokio::test]
async fn markers_of_the_prefix_are_no_objects() {
    let bucket = Bucket::with(&[]).await;
    for key in ["a/", "a", "a//"] {
        bucket.put(key, b"");
    }
    assert_eq!(keys_of(&bucket.origin("a/")).await, [""; 0]);
    bucket.put("a/", b"bytes");
    assert_eq!(keys_of(&bucket.origin("a/")).await, [""]);
}

#[tokio::test]
async fn a_server_that_does_not_encode_keys_is_understood() {
    let keys = [" a ", "a%20b", "a+b", "a&b<c", "a//b", "ü"];
    let bucket = Bucket::lying(Lie::PlainKeys, &keys).await;
    let mut expected = keys.map(str::to_owned);
    expected.sort_unstable();
    assert_eq!(keys_of(&bucket.origin("")).await, expected);
}

#[tokio::test]
async fn keys_that_no_url_can_name_are_left_out_with_a_reason() {
    let bucket = Bucket::with(&["a/../b", "./c", "d/..", "fine", "fine/..x"]).await;
    let origin = std::sync::Arc::new(bucket.origin(""));
    let listing = SourceListing {
        identity: origin.identity(),
        path: String::new(),
        objects: origin.list_all().await.unwrap(),
    };
    let Outcome::New(package) = build(SpaceId([5; 16]), None, &[listing], &BuildOptions::default()).unwrap() else {
        panic!("a first revision is new")
    };
    let awkward = &package.summary().awkward;
    assert_eq!((package.summary().files, awkward.left_out), (2, 3), "{awkward:?}");
    assert!(
        awkward.examples.iter().any(|example| example.contains("URL")),
        "{awkward:?}"
    );
    for listed in origin
        .list_all()
        .await
        .unwrap()
        .iter()
        .filter(|listed| listed.key.starts_with("fine"))
    {
        assert_eq!(bytes_of(&origin, listed).await.unwrap(), listed.key.as_bytes());
    }
    let refused = S3Origin::new(bucket.config("a/../"), &Network::default())
        .err()
        .map(|error| error.to_string());
    assert!(
        refused.as_ref().is_some_and(|text| text.contains("`..`")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_listing_that_falls_silent_ends_with_an_error() {
    let bucket = Bucket::lying(Lie::FallsSilent, &["a"]).await;
    let origin = S3Origin::new(
        bucket.config(""),
        &Network {
            silence_max: Duration::from_millis(50),
            ..Network::default()
        },
    )
    .unwrap();
    let failed = tokio::time::timeout(Duration::from_secs(20), origin.list_all()).await;
    let failed = failed.expect("nobody waits for ever").unwrap_err();
    assert!(matches!(failed, OriginError::Unreachable(_)), "{failed:?}");
}

#[tokio::test]
async fn listings_that_make_no_sense_are_errors_and_lose_nothing_silently() {
    for lie in [Lie::IgnoresPrefix, Lie::SamePage] {
        let bucket = Bucket::lying(lie, &["a/x", "b/x"]).await;
        let listed = tokio::time::timeout(Duration::from_secs(20), bucket.origin("a/").list_all()).await;
        let failed = listed.unwrap_or_else(|_| panic!("{lie:?}: the listing has no end"));
        assert!(matches!(failed, Err(OriginError::Invalid(_))), "{lie:?}: {failed:?}");
    }
}

#[tokio::test]
async fn an_object_that_vanished_is_drift_whatever_its_key_is() {
    let bucket = Bucket::with(&["list", "other"]).await;
    let origin = bucket.origin("");
    let listed = origin.list_all().await.unwrap();
    for listed in listed {
        bucket.remove(&listed.key);
        let failed = bytes_of(&origin, &listed).await.unwrap_err();
        assert!(matches!(failed, OriginError::Drifted(_)), "{}: {failed:?}", listed.key);
        assert!(failed.to_string().contains(&listed.key), "{failed}");
    }
    let nowhere = wire::S3 {
        bucket: "nowhere".into(),
        ..bucket.config("")
    };
    let failed = S3Origin::new(nowhere, &Network::default())
        .unwrap()
        .list_all()
        .await
        .unwrap_err();
    assert!(
        matches!(&failed, OriginError::NotFound(text) if text.contains("NoSuchBucket")),
        "{failed:?}"
    );
}

#[tokio::test]
async fn what_a_server_answers_instead_of_bytes_is_told_apart() {
    for (status, code, expected) in [
        (503, "SlowDown", "throttled"),
        (503, "ServiceUnavailable", "throttled"),
        (503, "", "throttled"),
        (429, "", "throttled"),
        (500, "SlowDown", "throttled"),
        (500, "InternalError", "other"),
        (502, "", "unreachable"),
        (504, "", "unreachable"),
        (403, "AccessDenied", "denied"),
        (400, "InvalidRequest", "invalid"),
        (403, "InvalidObjectState", "invalid"),
        (404, "NoSuchKey", "drifted"),
    ] {
        let bucket = Bucket::lying(Lie::Refuses(status, code), &["a"]).await;
        let origin = bucket.origin("");
        let listed = origin.list_all().await.unwrap();
        let got = match bytes_of(&origin, &listed[0]).await.unwrap_err() {
            OriginError::Throttled { text, wait } => {
                assert!(text.contains("slow down"), "{text}");
                assert_eq!(wait, Some(Duration::from_secs(7)), "{status} {code}");
                "throttled"
            }
            OriginError::Unreachable(_) => "unreachable",
            OriginError::Denied(_) => "denied",
            OriginError::Drifted(_) => "drifted",
            OriginError::Invalid(_) => "invalid",
            _ => "other",
        };
        assert_eq!(got, expected, "{status} {code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_lists_and_reads_with_a_signature() {
    let folder = tempfile::tempdir().unwrap();
    let server = S3Server::rclone_on(std::net::Ipv4Addr::LOCALHOST.into(), folder.path()).unwrap();
    let names = [
        "plain",
        "with blank",
        "a+b&c",
        "deep/er/ü",
        "deep/%2E",
        "=x,y;z@!$'()*:",
    ];
    for name in names {
        let path = server.buckets().join("sample").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, name).unwrap();
    }
    let config = wire::S3 {
        bucket: "sample".into(),
        prefix: String::new(),
        region: server.region.into(),
        endpoint: format!("http://{}", server.address),
        virtual_host_style: false,
        workload_identity: false,
        keys: Some(wire::AwsKeys {
            access_key_id: ACCESS_KEY.into(),
            secret_access_key: SECRET_KEY.into(),
            session_token: String::new(),
        }),
    };
    let origin = S3Origin::new(config.clone(), &Network::default()).unwrap();
    let listed = origin.list_all().await.unwrap();
    assert_eq!(listed.len(), names.len(), "{listed:?}");
    for object in &listed {
        assert_eq!(bytes_of(&origin, object).await.unwrap(), object.key.as_bytes());
    }
    let deep = S3Origin::new(
        wire::S3 {
            prefix: "deep/".into(),
            ..config.clone()
        },
        &Network::default(),
    );
    assert_eq!(keys_of(&deep.unwrap()).await, ["%2E", "er/ü"]);
    let wrong = wire::AwsKeys {
        access_key_id: ACCESS_KEY.into(),
        secret_access_key: "wrong".into(),
        session_token: String::new(),
    };
    let refused = S3Origin::new(
        wire::S3 {
            keys: Some(wrong),
            ..config
        },
        &Network::default(),
    );
    let failed = refused.unwrap().list_all().await.unwrap_err();
    assert!(matches!(failed, OriginError::Denied(_)), "{failed:?}");
}

#[tokio::test]
async fn a_version_that_the_bucket_keeps_is_read_when_another_took_its_place() {
    let bucket = Bucket::lying(Lie::KeepsVersions, &["a b", "gone", "other"]).await;
    let origin = bucket.origin("");
    let listed = origin.list_all().await.unwrap();
    bucket.put("a b", b"A B");
    bucket.remove("gone");
    for listed in &listed {
        for _ in 0..3 {
            assert_eq!(bytes_of(&origin, listed).await.unwrap(), listed.key.as_bytes());
        }
    }
    assert_eq!(bucket.looked_up(), 2, "each id is looked for once");
    let without = Bucket::with(&["a b"]).await;
    let origin = without.origin("");
    let [listed] = origin.list_all().await.unwrap().try_into().unwrap();
    without.put("a b", b"A B");
    let failed = bytes_of(&origin, &listed).await.unwrap_err();
    assert!(matches!(failed, OriginError::Drifted(_)), "{failed:?}");
    assert_eq!(without.looked_up(), 1);
    let asked = without.asked();
    for _ in 0..3 {
        let failed = bytes_of(&origin, &listed).await.unwrap_err();
        assert!(matches!(failed, OriginError::Drifted(_)), "{failed:?}");
    }
    assert_eq!(without.asked() - asked, 3, "that there is none is known by now");
}

#[tokio::test]
async fn whether_there_is_an_old_version_is_asked_until_it_is_known() {
    for (lie, passes) in [(Lie::VersionsBusy, true), (Lie::VersionsClosed, false)] {
        let bucket = Bucket::lying(lie, &["key"]).await;
        let origin = bucket.origin("");
        let [listed] = origin.list_all().await.unwrap().try_into().unwrap();
        bucket.put("key", b"KEY");
        let failed = bytes_of(&origin, &listed).await.unwrap_err();
        assert_eq!(failed.may_pass(), passes, "{failed:?}");
        assert_eq!(matches!(failed, OriginError::Drifted(_)), !passes, "{failed:?}");
    }
}

#[tokio::test]
async fn an_object_that_cannot_be_read_for_what_it_is_says_so() {
    for (status, code, says) in [
        (403, "InvalidObjectState", "is archived (InvalidObjectState)"),
        (400, "InvalidRequest", "(SSE-C)"),
        (403, "AccessDenied", "refuses access to cold (AccessDenied)"),
    ] {
        let bucket = Bucket::lying(Lie::Refuses(status, code), &["cold"]).await;
        let origin = bucket.origin("");
        let [listed] = origin.list_all().await.unwrap().try_into().unwrap();
        let failed = bytes_of(&origin, &listed).await.unwrap_err();
        assert!(!failed.may_pass(), "{failed:?}");
        let failed = failed.to_string();
        assert!(
            failed.contains("cold") && failed.contains("s3://bucket/") && failed.contains(says),
            "{failed}"
        );
    }
}

#[tokio::test]
async fn a_source_is_taken_though_its_first_objects_cannot_be_read() {
    for (status, code) in [
        (403, "InvalidObjectState"),
        (400, "InvalidRequest"),
        (403, "AccessDenied"),
    ] {
        let bucket = Bucket::lying(Lie::RefusesCold(status, code), &["cold 1", "cold 2", "warm"]).await;
        let origin = bucket.origin("");
        let listed: Vec<Listed> = proven(&origin).try_concat().await.unwrap();
        assert_eq!(listed.len(), 3, "{code}");
        let read = contact(&origin).await.unwrap().read;
        assert_eq!(read.map(|listed| listed.key).as_deref(), Some("warm"), "{code}");
        // What is wrong with all of them is wrong with the source.
        bucket.remove("warm");
        let asked = bucket.asked();
        let listed: Result<Vec<Listed>, _> = proven(&origin).try_concat().await;
        let failed = listed.unwrap_err().to_string();
        assert!(failed.contains("cold 1") && failed.contains(code), "{failed}");
        assert_eq!(bucket.asked() - asked, 3, "a page and two objects");
    }
}

#[tokio::test]
async fn the_objects_that_are_tried_are_few_and_of_the_whole_page() {
    let origin = FakeOrigin::default();
    for number in 0..1000 {
        origin.put(&format!("{number:04}"), "x");
    }
    origin.be_gone(Some(OriginError::Denied("no".into())));
    let tried: Result<Vec<Listed>, _> = proven(&origin).try_concat().await;
    assert_eq!(tried.unwrap_err(), OriginError::Denied("no".into()));
    let keys: Vec<String> = origin.asked().into_iter().map(|(key, _)| key).collect();
    let expected: Vec<String> = (0..8).map(|number| format!("{:04}", number * 125)).collect();
    assert_eq!(keys, expected);
    origin.be_gone(Some(OriginError::Unreachable("away".into())));
    let tried: Result<Vec<Listed>, _> = proven(&origin).try_concat().await;
    assert_eq!(tried.unwrap_err(), OriginError::Unreachable("away".into()));
    assert_eq!(origin.asked().len(), 9, "who does not answer is not asked again");
}

#[tokio::test]
async fn a_length_that_is_wrong_in_the_listing_is_told_from_a_change() {
    let bucket = Bucket::lying(Lie::ListsLonger, &["key"]).await;
    let origin = bucket.origin("");
    let [listed] = origin.list_all().await.unwrap().try_into().unwrap();
    let failed = bytes_of(&origin, &listed).await.unwrap_err();
    let OriginError::Invalid(text) = &failed else {
        panic!("{failed:?}")
    };
    assert!(text.contains("lists key with another length than it has"), "{text}");
    // Nor is any part of it believed.
    let object = ObjectVersion {
        source: 0,
        key: listed.key.clone(),
        version: listed.version.clone(),
    };
    let part = origin.read(&object, listed.bytes, 0..2).await.err();
    assert_eq!(part, Some(failed));
}
