//! Repositories of the Hugging Face hub as origins.

pub mod server;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use penstock_origin::hugging_face::HuggingFaceOrigin;
use penstock_origin::meter::Tally;
use penstock_origin::{Environment, Network, Origin, OriginError, Reach, client_within, proven};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion, Version};
use wire::hugging_face::Kind;

use self::server::{How, Hub, TOKEN, content, id};

const ODD_NAMES: [&str; 8] = [
    "a b",
    "data/é",
    "data/q?a&b=c;d",
    "100%25 #1",
    "<b>'\"+~",
    "back\\slash",
    "%2E%2E",
    "data/deep/er.bin",
];

fn origin(config: wire::HuggingFace) -> Result<HuggingFaceOrigin, OriginError> {
    HuggingFaceOrigin::new(config, &Network::default())
}

fn token(value: &str) -> Option<wire::HuggingFaceToken> {
    Some(wire::HuggingFaceToken {
        value: value.to_owned(),
    })
}

async fn read_range(
    origin: &HuggingFaceOrigin,
    listed: &Listed,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, OriginError> {
    let object = ObjectVersion {
        source: 0,
        key: listed.key.clone(),
        version: listed.version.clone(),
    };
    let body = origin.read(&object, listed.bytes, range).await?;
    Ok(body.try_collect::<Vec<_>>().await?.concat())
}

async fn read(origin: &HuggingFaceOrigin, listed: &Listed) -> Result<Vec<u8>, OriginError> {
    read_range(origin, listed, 0..listed.bytes).await
}

async fn listed(origin: &HuggingFaceOrigin) -> BTreeMap<String, Listed> {
    let listed = origin.list_all().await.unwrap();
    listed.into_iter().map(|one| (one.key.clone(), one)).collect()
}

fn files(names: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    let files = names.iter().map(|(name, of)| ((*name).to_owned(), content(of)));
    files.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_of_a_repository_is_listed_page_by_page_and_can_be_read() {
    let hub = Hub::with(How::Open, &ODD_NAMES).await;
    for path in ["", "data", "data/deep"] {
        let origin = origin(wire::HuggingFace {
            path: path.to_owned(),
            ..hub.config()
        })
        .unwrap();
        let below = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        let expected: Vec<_> = ODD_NAMES
            .iter()
            .filter_map(|name| Some((*name, name.strip_prefix(&below)?)))
            .collect();
        let listed = listed(&origin).await;
        assert_eq!(listed.len(), expected.len(), "{path:?}");
        for (name, key) in expected {
            let one = &listed[key];
            let bytes = content(name);
            assert_eq!(one.bytes, bytes.len() as u64, "{name}");
            assert_eq!(one.version, Version::ETag(id(name, &bytes)), "{name}");
            assert_eq!(read(&origin, one).await.unwrap(), bytes, "{name}");
            assert_eq!(read_range(&origin, one, 7..30).await.unwrap(), bytes[7..30], "{name}");
        }
    }
    let pages = 3 + 1 + 1;
    assert_eq!(hub.asked("/tree/"), pages);
    // Not even where a folder's files are read.
    assert_eq!(hub.asked("/revision/"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kinds_of_repositories_and_their_old_names_are_found() {
    let hub = Hub::with(How::Open, &["a.bin", "b"]).await;
    let old = origin(wire::HuggingFace {
        repository: "old-name".to_owned(),
        ..hub.config()
    });
    let old = old.unwrap();
    for (name, one) in listed(&old).await {
        assert_eq!(read(&old, &one).await.unwrap(), content(&name));
    }
    for (kind, api, place) in [
        (Kind::Model, "/api/models/owner/name/", "hf://owner/name@main/"),
        (Kind::Space, "/api/spaces/owner/name/", "hf://spaces/owner/name@main/"),
    ] {
        let origin = origin(wire::HuggingFace {
            kind: kind.into(),
            ..hub.config()
        });
        let error = origin.unwrap().list_all().await.unwrap_err();
        assert!(
            matches!(&error, OriginError::NotFound(text) if text.contains(place)),
            "{error}"
        );
        assert_eq!(hub.asked(api), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_is_a_branch_or_a_commit() {
    let hub = Hub::with(How::Open, &["a.bin", "b"]).await;
    let commit = hub.commit("refs/pr/1", files(&[("b", "of a branch")]));
    hub.commit("refs/pr/1", files(&[("b", "of a branch, later")]));
    for (revision, expected) in [("refs/pr/1", "of a branch, later"), (&commit, "of a branch"), ("", "b")] {
        let origin = origin(wire::HuggingFace {
            revision: revision.to_owned(),
            ..hub.config()
        });
        let origin = origin.unwrap();
        let listed = listed(&origin).await;
        assert_eq!(
            read(&origin, &listed["b"]).await.unwrap(),
            content(expected),
            "{revision}"
        );
    }
    assert_eq!(hub.asked("/revision/"), 2, "a commit is not looked up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_keeps_its_version_while_its_content_stays_and_is_drift_when_it_changed_or_went() {
    let hub = Hub::with(
        How::Open,
        &["large.bin", "small", "gone.bin", "gone", "same.bin", "same"],
    )
    .await;
    let lister = hub.origin();
    let before = listed(&lister).await;
    // As long as before.
    hub.commit(
        "main",
        files(&[
            ("large.bin", "LARGE.BIN"),
            ("small", "SMALL"),
            ("same.bin", "same.bin"),
            ("same", "same"),
        ]),
    );
    let reader = hub.origin();
    for name in ["large.bin", "small", "gone.bin", "gone"] {
        let error = read(&reader, &before[name]).await.unwrap_err();
        assert!(
            matches!(&error, OriginError::Drifted(text) if text.contains(name)),
            "{error}"
        );
        // Whoever listed it knows a commit that has it.
        assert_eq!(read(&lister, &before[name]).await.unwrap(), content(name));
    }
    for name in ["same.bin", "same"] {
        assert_eq!(read(&reader, &before[name]).await.unwrap(), content(name));
    }
    assert_eq!(
        hub.asked("/revision/"),
        2,
        "of drift the hub is not asked again and again"
    );
    let after = listed(&lister).await;
    assert_eq!(after["same"], before["same"]);
    assert_eq!(after["same.bin"], before["same.bin"]);
    for (name, of) in [("large.bin", "LARGE.BIN"), ("small", "SMALL")] {
        assert_ne!(after[name].version, before[name].version);
        assert_eq!(read(&lister, &after[name]).await.unwrap(), content(of));
        assert_eq!(read(&lister, &before[name]).await.unwrap(), content(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_lists_follows_a_branch() {
    let hub = Hub::with(How::Open, &["b"]).await;
    let reader = hub.origin();
    let missing = Listed {
        key: "later".to_owned(),
        bytes: 40,
        modified_unix_nanos: 0,
        version: Version::ETag("any".to_owned()),
    };
    let before = listed(&hub.origin()).await;
    assert_eq!(read(&reader, &before["b"]).await.unwrap(), content("b"));
    hub.commit("main", files(&[("later.bin", "later")]));
    let after = listed(&hub.origin()).await;
    // The revision was looked up just now, which is not done again for a while, so another client it is.
    let error = read(&reader, &missing).await.unwrap_err();
    assert!(matches!(error, OriginError::Drifted(_)), "{error}");
    assert_eq!(
        read(&hub.origin(), &after["later.bin"]).await.unwrap(),
        content("later")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_for_the_hub_alone_and_stands_in_no_text() {
    let hub = Hub::with(How::Private, &["large.bin", "small"]).await;
    let with = |token| wire::HuggingFace { token, ..hub.config() };
    let origin = |token| origin(with(token)).unwrap();
    let known = origin(token(TOKEN));
    for (name, one) in listed(&known).await {
        assert_eq!(read(&known, &one).await.unwrap(), content(&name));
    }
    assert!(hub.asked("storage") > 0);
    assert_eq!(hub.asked("leak"), 0, "the storage was sent the token");
    let error = origin(None).list_all().await.unwrap_err().to_string();
    assert!(
        error.contains("is not open to everybody (401 RepoNotFound)") && error.contains("name a Secret"),
        "{error}"
    );
    let wrong = "hf_wrong-hushhush";
    let error = origin(token(wrong)).list_all().await.unwrap_err();
    assert!(
        matches!(&error, OriginError::Denied(text) if text.contains("refuses the token (401)")),
        "{error}"
    );
    *hub.shared.how.lock().unwrap() = How::Gated;
    let error = origin(None).list_all().await.unwrap_err();
    assert!(
        matches!(&error, OriginError::Denied(text) if text.contains("accept them on the hub, and name a Secret")),
        "{error}"
    );
    assert_eq!(listed(&known).await.len(), 2);
    let config = format!("{:?}", with(token(TOKEN)));
    assert!(
        !config.contains("hushhush") && !error.to_string().contains("hushhush"),
        "{config}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_says_what_opens_a_file() {
    for how in [
        How::StorageRefuses(403),
        How::StorageRefuses(429),
        How::StorageRefuses(500),
        How::WholeContents,
        How::OtherRange,
        How::User,
        How::Ftp,
        How::Circle,
        How::Refuses(403),
    ] {
        let hub = Hub::with(how, &["large.bin"]).await;
        let origin = origin(wire::HuggingFace {
            token: token(TOKEN),
            ..hub.config()
        });
        let error = origin.unwrap().list_all().await.unwrap_err();
        let texts = format!("{error} {error:?}");
        assert!(
            !texts.contains("hushhush") && !texts.contains("secret"),
            "{how:?}: {texts}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_large_file_lies_is_asked_once_and_again_when_the_storage_refuses() {
    let hub = Hub::with(How::Open, &["large.bin"]).await;
    let origin = hub.origin();
    let listed = listed(&origin).await;
    for _ in 0..5 {
        assert_eq!(read(&origin, &listed["large.bin"]).await.unwrap(), content("large.bin"));
    }
    assert_eq!(hub.asked("/resolve/"), 1);
    *hub.shared.signatures.lock().unwrap() += 1;
    for _ in 0..5 {
        assert_eq!(read(&origin, &listed["large.bin"]).await.unwrap(), content("large.bin"));
    }
    assert_eq!(hub.asked("/resolve/"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_that_a_hub_sends_whole_are_cut() {
    let hub = Hub::with(How::WholeFiles, &["small"]).await;
    let origin = hub.origin();
    let listed = listed(&origin).await;
    let bytes = content("small");
    let length = bytes.len();
    for (from, upto) in [(0, 1), (0, length), (5, 17), (length - 1, length)] {
        let read = read_range(&origin, &listed["small"], from as u64..upto as u64)
            .await
            .unwrap();
        assert_eq!(read, bytes[from..upto], "{from}..{upto}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_an_origin_is_refused_when_it_is_listed() {
    for (how, says) in [
        (How::WholeContents, "sends whole objects where parts are asked for"),
        (How::OtherRange, "sends another range of large.bin than was asked for"),
        (How::Shorter, "sends files with other ids than it lists"),
        (How::NoTag, "sends large.bin without the version by which it was listed"),
        (How::OtherTag, "sends files with other ids than it lists"),
        (How::Circle, "leads from one address to the next without end"),
        (How::Metadata, "is for the machine itself"),
        (How::User, "leads to an address with a user in it"),
        (How::Ftp, "leads from https to http, or to what is no web server"),
        (How::OtherHub, "leads to another server for the rest of its files"),
        (How::SamePage, "lists the same page again and again"),
        (
            How::OtherApi,
            "leads to another server for what it says of the repository",
        ),
    ] {
        let hub = Hub::with(how, &["large.bin"]).await;
        let error = hub.origin().list_all().await.unwrap_err().to_string();
        assert!(error.contains(says), "{how:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_and_who_asks_too_much_is_told_so() {
    let hub = Hub::with(How::Open, &["large.bin"]).await;
    let of = |change: fn(&mut wire::HuggingFace)| {
        let mut config = hub.config();
        change(&mut config);
        origin(config).unwrap()
    };
    for (origin, says) in [
        (
            of(|config| config.repository = "no/where".to_owned()),
            "does not exist (404 RepoNotFound)",
        ),
        (
            of(|config| config.revision = "v9".to_owned()),
            "no such branch, tag or commit (404 RevisionNotFound)",
        ),
        (
            of(|config| config.revision = "f".repeat(40)),
            "no such branch, tag or commit (404 RevisionNotFound)",
        ),
        (
            of(|config| config.path = "no/folder".to_owned()),
            "no such folder (404 EntryNotFound)",
        ),
    ] {
        let error = origin.list_all().await.unwrap_err();
        assert!(
            matches!(&error, OriginError::NotFound(text) if text.contains(says)),
            "{error}"
        );
    }
    *hub.shared.how.lock().unwrap() = How::Refuses(429);
    let error = hub.origin().list_all().await.unwrap_err();
    let OriginError::Throttled { text, wait } = error else {
        panic!("{error}")
    };
    assert!(text.contains("name a Secret with HF_TOKEN"), "{text}");
    assert_eq!(wait, Some(Duration::from_secs(60)));
    *hub.shared.how.lock().unwrap() = How::Refuses(500);
    let error = hub.origin().list_all().await.unwrap_err();
    assert!(matches!(error, OriginError::Other(_)), "{error}");
    let nobody = wire::HuggingFace {
        endpoint: "http://127.0.0.1:1".to_owned(),
        ..hub.config()
    };
    let error = origin(nobody).unwrap().list_all().await.unwrap_err();
    assert!(matches!(error, OriginError::Unreachable(_)), "{error}");
}

#[test]
fn what_names_no_folder_of_a_repository_is_refused() {
    let config = |repository: &str, path: &str, endpoint: &str, value: &str| wire::HuggingFace {
        repository: repository.to_owned(),
        path: path.to_owned(),
        endpoint: endpoint.to_owned(),
        token: token(value),
        ..Default::default()
    };
    for (config, says) in [
        (config("../..", "", "", "t"), "is `owner/name`"),
        (config("a/b/c", "", "", "t"), "is `owner/name`"),
        (config("a/b", "c/../d", "", "t"), "no part `.` or `..`"),
        (config("a/b", "c/", "", "t"), "no slash at an end"),
        (config("a/b", "", "no url", "t"), "write one like https://host"),
        (config("a/b", "", "ftp://host", "t"), "begins with http://"),
        (config("a/b", "", "https://me:secret@host", "t"), "must not have a user"),
        (config("a/b", "", "", ""), "its token is empty"),
        (
            config("a/b", "", "", "secret\nsecret"),
            "characters that no header can hold",
        ),
    ] {
        let error = origin(config).err().unwrap().to_string();
        assert!(error.contains(says) && !error.contains("secret"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_may_be_reached_leads_to_no_address_that_may_not() {
    let hub = Hub::with(How::Open, &["large.bin"]).await;
    let source = wire::Source {
        origin: Some(wire::source::Origin::HuggingFace(hub.config())),
        ..Default::default()
    };
    let address = |url: &str| url.trim_start_matches("http://").to_owned();
    let (of_hub, of_storage) = (address(&hub.endpoint), address(&hub.shared.storage));
    for (granted, is_allowed) in [(vec![of_hub.clone()], false), (vec![of_hub, of_storage.clone()], true)] {
        let reach = Reach::default();
        reach.set(&["127.0.0.0/8".to_owned()], &granted);
        let origin = client_within(&source, &Environment::default(), &reach, &Tally::default()).unwrap();
        let listed = proven(&*origin).try_concat().await;
        match listed {
            Ok(_) => assert!(is_allowed),
            Err(error) => {
                let text = error.to_string();
                assert!(!is_allowed, "{text}");
                assert!(
                    matches!(error, OriginError::NotAllowed(_)) && text.contains(&of_storage),
                    "{text}"
                );
            }
        }
    }
}
