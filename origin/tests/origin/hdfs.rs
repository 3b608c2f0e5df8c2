//! Folders of HDFS as origins: Hadoop's own NameNodes and DataNode.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use hdfs_native::{Client, ClientBuilder, WriteOptions};
use penstock_e2e::origin::HdfsCluster;
use penstock_origin::hdfs::HdfsOrigin;
use penstock_origin::{Network, Origin, OriginError};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion, Version};

const ODD_NAMES: [&str; 8] = [
    " a b ",
    "é/ü",
    "q?a&b=c;d",
    "100%25 #1",
    "<b>'\"+~",
    "back\\slash",
    "%2E%2E",
    "deep/er/file.tar",
];
/// Blocks of the HDFS of the tests.
const BLOCK: usize = 1 << 20;

fn content(name: &str) -> Vec<u8> {
    format!("the bytes of {name}").repeat(40).into_bytes()
}

/// More than two blocks, of which no two pages are the same.
fn large(seed: u32) -> Vec<u8> {
    let numbers = (0..5 * BLOCK as u32 / 8).map(|number| number.wrapping_mul(seed));
    numbers.flat_map(u32::to_le_bytes).collect()
}

fn config(cluster: &HdfsCluster, path: &str) -> wire::Hdfs {
    wire::Hdfs {
        name_nodes: cluster.rpc.iter().map(ToString::to_string).collect(),
        path: path.to_owned(),
        ..Default::default()
    }
}

fn origin(config: wire::Hdfs) -> HdfsOrigin {
    HdfsOrigin::new(config, &Network::default()).unwrap()
}

/// Does as the superuser what no origin does.
fn superuser(cluster: &HdfsCluster) -> Client {
    let client = ClientBuilder::new().with_url(format!("hdfs://{}", cluster.rpc[0]));
    let client = client
        .with_config_dir("/dev/null")
        .with_user(std::env::var("USER").unwrap_or("root".to_owned()));
    client.build().unwrap()
}

async fn listed(origin: &HdfsOrigin) -> BTreeMap<String, Listed> {
    let listed = origin.list_all().await.unwrap();
    let count = listed.len();
    let listed: BTreeMap<_, _> = listed.into_iter().map(|one| (one.key.clone(), one)).collect();
    assert_eq!(listed.len(), count, "something is listed twice");
    listed
}

fn object(listed: &Listed) -> ObjectVersion {
    ObjectVersion {
        source: 0,
        key: listed.key.clone(),
        version: listed.version.clone(),
    }
}

async fn read_range(origin: &HdfsOrigin, listed: &Listed, range: Range<u64>) -> Result<Vec<u8>, OriginError> {
    let body = origin.read(&object(listed), listed.bytes, range).await?;
    Ok(body.try_collect::<Vec<_>>().await?.concat())
}

async fn read(origin: &HdfsOrigin, listed: &Listed) -> Result<Vec<u8>, OriginError> {
    read_range(origin, listed, 0..listed.bytes).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_of_a_folder_is_listed_and_can_be_read() {
    let cluster = HdfsCluster::on(Ipv4Addr::LOCALHOST.into()).unwrap();
    for name in ODD_NAMES {
        cluster.put(&format!("/pub/data/{name}"), &content(name)).unwrap();
    }
    cluster.put("/pub/database", b"beside").unwrap();
    cluster.put("/pub/data/large", &large(7919)).unwrap();
    for gone in ["/pub/data/empty/file", "/pub/data/deep/empty/file"] {
        cluster.put(gone, b"").unwrap();
        cluster.remove(gone).unwrap();
    }
    let mut expected: BTreeMap<_, _> = ODD_NAMES
        .iter()
        .map(|name| ((*name).to_owned(), content(name)))
        .collect();
    expected.insert("large".to_owned(), large(7919));
    expected.insert("empty/".to_owned(), Vec::new());
    expected.insert("deep/empty/".to_owned(), Vec::new());
    let now = jiff::Timestamp::now().as_nanosecond();
    for path in ["/pub/data", "/pub/data/"] {
        let origin = origin(config(&cluster, path));
        let listed = listed(&origin).await;
        assert_eq!(listed.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (key, one) in &listed {
            assert_eq!(one.bytes, expected[key].len() as u64, "{key}");
            assert_eq!(one.version, Version::Modified(one.modified_unix_nanos));
            assert!(
                (now - i128::from(one.modified_unix_nanos)).abs() < 600_000_000_000,
                "{key}"
            );
            if !key.ends_with('/') {
                assert_eq!(read(&origin, one).await.unwrap(), expected[key], "{key}");
            }
        }
        let (bytes, block) = (&expected["large"], BLOCK as u64);
        for range in [
            0..1,
            5..17,
            block - 1..block + 1,
            block..2 * block,
            100..2 * block + 100,
            block * 5 / 2 - 1..block * 5 / 2,
        ] {
            let read = read_range(&origin, &listed["large"], range.clone()).await.unwrap();
            assert!(read == bytes[range.start as usize..range.end as usize], "{range:?}");
        }
    }
    let whole = listed(&origin(config(&cluster, "/"))).await;
    assert!(whole.contains_key("pub/database") && whole.contains_key("pub/data/deep/er/file.tar"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_folder_is_listed_in_pages() {
    let cluster = HdfsCluster::on(Ipv4Addr::LOCALHOST.into()).unwrap();
    // A NameNode sends a thousand at a time.
    for number in 0..2100 {
        cluster.put(&format!("/many/{number}"), b"").unwrap();
    }
    for number in 0..30 {
        cluster.put(&format!("/many/folder-{number}/file"), b"").unwrap();
    }
    let origin = origin(config(&cluster, "/many"));
    let pages: Vec<_> = origin.list().try_collect().await.unwrap();
    assert!(
        pages.len() > 30 && pages.iter().all(|page| page.len() <= 1000),
        "{}",
        pages.len()
    );
    let listed = listed(&origin).await;
    assert_eq!(listed.len(), 2130);
    assert!(listed.contains_key("folder-29/file") && listed.contains_key("2099"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_or_went_is_never_read_as_the_one_that_was_listed() {
    let cluster = HdfsCluster::on(Ipv4Addr::LOCALHOST.into()).unwrap();
    for name in ["overwritten", "appended", "deleted", "replaced", "other"] {
        cluster.put(&format!("/data/{name}"), &content(name)).unwrap();
    }
    for name in ["reading", "removing"] {
        cluster.put(&format!("/data/{name}"), &large(3)).unwrap();
    }
    let reader = origin(config(&cluster, "/data"));
    let before = listed(&reader).await;
    for name in ["overwritten", "appended"] {
        // Remembers where its blocks are.
        assert_eq!(read(&reader, &before[name]).await.unwrap(), content(name));
    }
    // As long as before.
    cluster.put("/data/overwritten", &content("OVERWRITTEN")).unwrap();
    cluster.append("/data/appended", b"more").unwrap();
    cluster.remove("/data/deleted").unwrap();
    cluster.remove("/data/replaced").unwrap();
    cluster.rename("/data/other", "/data/replaced").unwrap();
    let fresh = origin(config(&cluster, "/data"));
    for origin in [&reader, &fresh] {
        for name in ["overwritten", "appended", "deleted", "replaced", "other"] {
            let error = read(origin, &before[name]).await.unwrap_err();
            assert!(
                matches!(&error, OriginError::Drifted(text) if text.contains(name)),
                "{name}: {error}"
            );
        }
    }
    let after = listed(&reader).await;
    assert_eq!(
        read(&reader, &after["overwritten"]).await.unwrap(),
        content("OVERWRITTEN")
    );
    assert_eq!(
        read(&reader, &after["appended"]).await.unwrap().len(),
        content("appended").len() + 4
    );

    // While somebody reads: all may come but the end.
    for name in ["reading", "removing"] {
        let one = &before[name];
        let mut body = reader.read(&object(one), one.bytes, 0..one.bytes).await.unwrap();
        let first = body.next().await.unwrap().unwrap();
        match name {
            "reading" => cluster.put("/data/reading", &large(5)).unwrap(),
            _ => cluster.remove("/data/removing").unwrap(),
        }
        let (mut come, mut end) = (first.len() as u64, None);
        while let Some(piece) = body.next().await {
            match piece {
                Ok(piece) => come += piece.len() as u64,
                Err(error) => end = Some(error),
            }
        }
        assert!(
            come < one.bytes && matches!(end, Some(OriginError::Drifted(_))),
            "{name}: {come} {end:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_being_written_is_what_is_there_of_it_and_drift_when_it_is_done() {
    let cluster = HdfsCluster::on(Ipv4Addr::LOCALHOST.into()).unwrap();
    cluster.put("/data/done", b"done").unwrap();
    let bytes = large(11);
    let options = WriteOptions::default().block_size(BLOCK as u64);
    let mut writer = superuser(&cluster).create("/data/begun", options).await.unwrap();
    writer
        .write_bytes(bytes[..2 * BLOCK + 4096].to_vec().into())
        .await
        .unwrap();
    let origin = origin(config(&cluster, "/data"));
    let complete = 2 * BLOCK as u64;
    let begun = &listed(&origin).await["begun"];
    assert_eq!(begun.bytes, complete);
    assert!(read(&origin, begun).await.unwrap() == bytes[..2 * BLOCK]);
    // Now others know of more, in a block that still grows.
    writer.hsync().await.unwrap();
    let grown = &listed(&origin).await["begun"];
    assert_eq!(grown.bytes, complete + 4096);
    assert!(read_range(&origin, grown, 0..complete).await.unwrap() == bytes[..2 * BLOCK]);
    let error = read(&origin, grown).await.unwrap_err();
    assert!(
        matches!(&error, OriginError::Drifted(text) if text.contains("begun in hdfs://") && text.contains("is being written")),
        "{error}"
    );
    writer
        .write_bytes(bytes[2 * BLOCK + 4096..].to_vec().into())
        .await
        .unwrap();
    writer.close().await.unwrap();
    for before in [begun, grown] {
        let error = read_range(&origin, before, 0..1).await.unwrap_err();
        assert!(matches!(error, OriginError::Drifted(_)), "{error}");
    }
    let after = listed(&origin).await;
    assert!(read(&origin, &after["begun"]).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_as_the_user_of_the_source_and_what_is_not_there_is_told() {
    let cluster = HdfsCluster::on(Ipv4Addr::LOCALHOST.into()).unwrap();
    cluster.put("/private/of-alice/file", &content("file")).unwrap();
    cluster.put("/public/file", &content("file")).unwrap();
    let superuser = superuser(&cluster);
    superuser
        .set_owner("/private/of-alice", Some("alice"), None)
        .await
        .unwrap();
    superuser.set_permission("/private/of-alice", 0o700).await.unwrap();
    let of = |path: &str, user: &str| {
        origin(wire::Hdfs {
            user: user.to_owned(),
            ..config(&cluster, path)
        })
    };
    let alice = of("/private", "alice");
    let listed = listed(&alice).await;
    assert_eq!(read(&alice, &listed["of-alice/file"]).await.unwrap(), content("file"));
    for (user, shown) in [("bob", "bob"), ("", "hdfs")] {
        let origin = of("/private", user);
        for error in [
            origin.list_all().await.unwrap_err(),
            read(&origin, &listed["of-alice/file"]).await.unwrap_err(),
        ] {
            assert!(
                matches!(&error, OriginError::Denied(text) if text.contains(&format!("the user {shown} "))),
                "{error}"
            );
        }
        assert_eq!(of("/public", user).list_all().await.unwrap().len(), 1);
    }
    for (path, says) in [
        ("/nowhere", "does not exist"),
        ("/public/file", "is a file and no folder"),
    ] {
        let error = of(path, "").list_all().await.unwrap_err();
        assert!(
            matches!(&error, OriginError::NotFound(text) if text.contains(says)),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_active_name_node_is_found_wherever_it_stands_and_when_it_changes() {
    let cluster = HdfsCluster::of_two_on(Ipv4Addr::LOCALHOST.into()).unwrap();
    cluster.put("/data/file", &content("file")).unwrap();
    let [one, two] = [cluster.rpc[0], cluster.rpc[1]].map(|address| address.to_string());
    // Takes connections and says nothing; the other address has nobody.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let of = |names: &[&String]| {
        let config = wire::Hdfs {
            name_nodes: names.iter().map(|name| (*name).clone()).collect(),
            ..config(&cluster, "/data")
        };
        let network = Network {
            silence_max: Duration::from_secs(3),
            ..Network::default()
        };
        HdfsOrigin::new(config, &network).unwrap()
    };
    let nobody = "127.0.0.1:1".to_owned();
    let origins = [
        of(&[&one, &two]),
        of(&[&two, &one]),
        of(&[&nobody, &silent, &two, &one]),
    ];
    let mut file = None;
    for origin in &origins {
        file = listed(origin).await.remove("file");
        assert_eq!(read(origin, file.as_ref().unwrap()).await.unwrap(), content("file"));
    }
    let file = file.unwrap();
    cluster.make_active(1).unwrap();
    for origin in &origins {
        assert_eq!(read(origin, &file).await.unwrap(), content("file"));
        assert_eq!(listed(origin).await["file"], file);
    }
    let error = of(&[&nobody, &silent, &one]).list_all().await.unwrap_err();
    let OriginError::Unreachable(text) = &error else {
        panic!("{error}")
    };
    for says in [
        format!("{nobody} failed: Connection refused"),
        format!("{silent} is silent"),
        format!("{one} is not active"),
    ] {
        assert!(text.contains(&says), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_are_for_the_machine_itself_are_no_name_nodes() {
    for name_node in ["169.254.169.254:80", "[fe80::1]:8020", "2852039166:80"] {
        let origin = origin(wire::Hdfs {
            name_nodes: vec![name_node.to_owned()],
            path: "/".to_owned(),
            ..Default::default()
        });
        let error = origin.list_all().await.unwrap_err();
        assert!(
            matches!(&error, OriginError::NotAllowed(text) if text.contains("is for the machine itself")),
            "{error}"
        );
    }
}

#[test]
fn what_names_no_folder_of_hdfs_is_refused() {
    for (name_nodes, path, says) in [
        (vec![], "/", "has no NameNodes"),
        (vec!["nn"], "/", "write it as host:port"),
        (vec!["nn:8020", "nn2:rpc"], "/", "\"nn2:rpc\" is no NameNode"),
        (vec!["nn:8020"], "data", "begins with a slash"),
        (vec!["nn:8020"], "", "begins with a slash"),
        (vec!["nn:8020"], "/a/../b", "no part `.` or `..`"),
        (vec!["nn:8020"], "/a//b", "none that is empty"),
    ] {
        let config = wire::Hdfs {
            name_nodes: name_nodes.into_iter().map(str::to_owned).collect(),
            path: path.to_owned(),
            ..Default::default()
        };
        let error = HdfsOrigin::new(config, &Network::default()).err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}
