//! HDFS with Kerberos: MIT's KDC, Hadoop's own NameNode and DataNode.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::TryStreamExt;
use penstock_e2e::origin::{HdfsCluster, Realm};
use penstock_origin::hdfs::HdfsOrigin;
use penstock_origin::{Network, Origin, OriginError};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion};

const HERE: std::net::IpAddr = std::net::IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A keytab with one key, in base64.
pub fn keytab(principal: &str, etype: u16, key: &[u8]) -> String {
    let (name, realm) = principal.rsplit_once('@').unwrap();
    let names: Vec<&str> = name.split('/').collect();
    let mut entry = (names.len() as u16).to_be_bytes().to_vec();
    for text in std::iter::once(realm).chain(names) {
        entry.extend((text.len() as u16).to_be_bytes());
        entry.extend(text.as_bytes());
    }
    entry.extend([0; 8]);
    entry.push(1);
    entry.extend(etype.to_be_bytes());
    entry.extend((key.len() as u16).to_be_bytes());
    entry.extend(key);
    BASE64_STANDARD.encode([&[5, 2][..], &(entry.len() as i32).to_be_bytes(), &entry].concat())
}

/// A new keytab of a principal, which ends those before it.
pub fn key_of(realm: &Realm, name: &str) -> wire::KerberosKey {
    wire::KerberosKey {
        principal: realm.principal(name),
        keytab: BASE64_STANDARD.encode(std::fs::read(realm.keytab(name).unwrap()).unwrap()),
    }
}

pub fn kdcs(realm: &Realm) -> Vec<String> {
    vec![format!("{}/{}", realm.name, realm.kdc)]
}

fn config(cluster: &HdfsCluster, path: &str, realm: &Realm, key: &wire::KerberosKey) -> wire::Hdfs {
    wire::Hdfs {
        name_nodes: vec![cluster.rpc[0].to_string()],
        path: path.to_owned(),
        user: String::new(),
        key: Some(key.clone()),
        kdcs: kdcs(realm),
    }
}

fn origin(config: wire::Hdfs) -> HdfsOrigin {
    HdfsOrigin::new(config, &Network::default()).unwrap()
}

fn content(name: &str) -> Vec<u8> {
    format!("the bytes of {name}").repeat(40).into_bytes()
}

/// More than two blocks.
fn large() -> Vec<u8> {
    let numbers = (0..700_000_u32).map(|number| number.wrapping_mul(7919));
    numbers.flat_map(u32::to_le_bytes).collect()
}

async fn read(origin: &HdfsOrigin, listed: &Listed) -> Result<Vec<u8>, OriginError> {
    let object = ObjectVersion {
        source: 0,
        key: listed.key.clone(),
        version: listed.version.clone(),
    };
    let body = origin.read(&object, listed.bytes, 0..listed.bytes).await?;
    Ok(body.try_collect::<Vec<_>>().await?.concat())
}

async fn reads_all(origin: &HdfsOrigin, key: &str, expected: &[u8]) {
    let listed = origin.list_all().await.unwrap();
    let one = listed.iter().find(|listed| listed.key == key).unwrap();
    assert!(read(origin, one).await.unwrap() == expected, "{key}");
}

async fn refused(config: wire::Hdfs) -> OriginError {
    let network = Network {
        silence_max: Duration::from_secs(8),
        ..Network::default()
    };
    let origin = HdfsOrigin::new(config, &network).unwrap();
    origin.list_all().await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_source_reads_as_its_own_principal_and_says_what_is_wrong_with_it() {
    let realm = Realm::on(HERE, "A.ORG").unwrap();
    let cluster = HdfsCluster::with_kerberos_on(HERE, &realm, "integrity").unwrap();
    for name in ["alice", "bob"] {
        cluster.put(&format!("/private/{name}/file"), &content(name)).unwrap();
        cluster.own(&format!("/private/{name}"), name, 0o700).unwrap();
    }
    cluster.put("/public/large", &large()).unwrap();
    let (alice, bob) = (key_of(&realm, "alice"), key_of(&realm, "bob/of.a.host"));
    let of = |path: &str, key: &wire::KerberosKey| config(&cluster, path, &realm, key);
    let (by_alice, by_bob) = (origin(of("/private/alice", &alice)), origin(of("/private/bob", &bob)));
    let (alices, bobs) = (content("alice"), content("bob"));
    tokio::join!(reads_all(&by_alice, "file", &alices), reads_all(&by_bob, "file", &bobs),);
    reads_all(&origin(of("/public", &alice)), "large", &large()).await;
    for (path, key, shown) in [
        ("/private/bob", &alice, "the principal alice@A.ORG read the folder"),
        (
            "/private/alice",
            &bob,
            "the principal bob/of.a.host@A.ORG read the folder",
        ),
    ] {
        let error = refused(of(path, key)).await;
        assert!(
            matches!(&error, OriginError::Denied(text) if text.contains(shown)),
            "{error}"
        );
    }

    // A new key takes the place of the one before.
    let renewed = key_of(&realm, "alice");
    let error = refused(of("/private/alice", &alice)).await;
    assert!(
        matches!(&error, OriginError::Denied(text) if text.contains("has another key than the KDC")),
        "{error}"
    );
    reads_all(&origin(of("/private/alice", &renewed)), "file", &content("alice")).await;
    // Who has a ticket already goes on with it.
    reads_all(&by_alice, "file", &content("alice")).await;

    let stranger = wire::KerberosKey {
        principal: "carol@A.ORG".to_owned(),
        keytab: keytab("carol@A.ORG", 18, &[7; 32]),
    };
    let error = refused(of("/public", &stranger)).await;
    assert!(
        matches!(&error, OriginError::Denied(text) if text.contains("knows no principal carol@A.ORG")),
        "{error}"
    );
    realm.admin("modprinc -allow_tix bob/of.a.host").unwrap();
    let error = refused(of("/public", &bob)).await;
    assert!(
        matches!(&error, OriginError::Denied(text) if text.contains("is locked or has expired")),
        "{error}"
    );

    // Takes connections and says nothing.
    let silent = TcpListener::bind((HERE, 0)).unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let nobody = "127.0.0.1:1".to_owned();
    let with = |name: &str, kdcs: &[&String]| wire::Hdfs {
        kdcs: kdcs.iter().map(|kdc| format!("{name}/{kdc}")).collect(),
        ..of("/public", &renewed)
    };
    let good = realm.kdc.to_string();
    let error = refused(with("A.ORG", &[&nobody, &silent])).await;
    let says = format!("no KDC of the Kerberos realm A.ORG answers ({nobody} failed: Connection refused");
    assert!(
        matches!(&error, OriginError::Unreachable(text) if text.contains(&says) && text.contains(&format!("{silent} is silent"))),
        "{error}"
    );
    reads_all(&origin(with("A.ORG", &[&nobody, &silent, &good])), "large", &large()).await;
    let error = refused(with("B.ORG", &[&good])).await;
    assert!(
        matches!(&error, OriginError::Invalid(text) if text.contains("the Kerberos realm A.ORG has no KDC here")),
        "{error}"
    );
    let error = refused(with("A.ORG", &[&"169.254.169.254:88".to_owned()])).await;
    assert!(
        matches!(&error, OriginError::NotAllowed(text) if text.contains("is for the machine itself")),
        "{error}"
    );

    let error = refused(wire::Hdfs {
        key: None,
        ..of("/public", &alice)
    })
    .await;
    assert!(
        matches!(&error, OriginError::Unreachable(text) if text.contains("give the source a keytab by credentialsSecretRef")),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_needs_not_be_signed() {
    let realm = Realm::on(HERE, "PLAIN.ORG").unwrap();
    let cluster = HdfsCluster::with_kerberos_on(HERE, &realm, "authentication").unwrap();
    cluster.put("/data/large", &large()).unwrap();
    let reader = origin(config(&cluster, "/data", &realm, &key_of(&realm, "reader")));
    reads_all(&reader, "large", &large()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_node_that_believes_everybody_is_not_asked_as_a_principal() {
    let realm = Realm::on(HERE, "B.ORG").unwrap();
    let cluster = HdfsCluster::on(HERE).unwrap();
    cluster.put("/data/file", &content("file")).unwrap();
    let error = refused(config(&cluster, "/data", &realm, &key_of(&realm, "reader"))).await;
    assert!(
        matches!(&error, OriginError::Unreachable(text) if text.contains("takes everybody at his word and knows no Kerberos")),
        "{error}"
    );
}

#[test]
fn a_keytab_or_principal_that_is_none_is_refused_without_the_key() {
    let secret = b"a key that is none: hush-hush...";
    let own = keytab("reader@A.ORG", 18, secret);
    for (principal, keytab, user, says) in [
        ("reader", own.clone(), "", "write it as name@REALM"),
        (
            "other@A.ORG",
            own.clone(),
            "",
            "no key of other@A.ORG, but of reader@A.ORG",
        ),
        ("reader@A.ORG", BASE64_STANDARD.encode(secret), "", "is no keytab"),
        (
            "reader@A.ORG",
            keytab("reader@A.ORG", 23, &secret[..16]),
            "",
            "make one with aes256",
        ),
        ("reader@A.ORG", own, "hdfs", "take `user` away"),
    ] {
        let config = wire::Hdfs {
            name_nodes: vec!["nn:8020".to_owned()],
            path: "/".to_owned(),
            user: user.to_owned(),
            key: Some(wire::KerberosKey {
                principal: principal.to_owned(),
                keytab,
            }),
            kdcs: Vec::new(),
        };
        let error = HdfsOrigin::new(config, &Network::default()).err().unwrap().to_string();
        assert!(error.contains(says) && !error.contains("hush"), "{error}");
    }
}
