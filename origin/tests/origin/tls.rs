//! Servers with certificates of private authorities: which are believed, and what is said of the others.

use std::net::SocketAddr;

use penstock_e2e::origin::{Nginx, NginxOptions};
use penstock_origin::OriginError;
use penstock_protocol::control::cache_node as wire;
use penstock_tls::test_support::Authority;
use tempfile::TempDir;
use wire::source::Origin;

use crate::conformance::{Store, client, content, one, read};
use crate::stores::HERE;

/// What stands in a certificate.
#[derive(Clone, Copy)]
enum Certificate {
    Right,
    OfAnotherHost,
    Expired,
}

/// A server that ends TLS with such a certificate before the one at an address. The folder is its own.
fn before(address: SocketAddr, authority: &Authority, certificate: Certificate) -> (Nginx, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let host = HERE.to_string();
    match certificate {
        Certificate::Right => authority.identify(&[&host], folder.path()),
        Certificate::OfAnotherHost => authority.identify(&["storage.example", "127.0.0.2"], folder.path()),
        Certificate::Expired => authority.identify_expired(&[&host], folder.path()),
    }
    .unwrap();
    let options = NginxOptions {
        tls: Some((&folder.path().join("tls.crt"), &folder.path().join("tls.key"))),
        behind: Some(address),
        ..Default::default()
    };
    (Nginx::on(HERE, options).unwrap(), folder)
}

/// The same source over TLS.
fn over_tls(mut source: wire::Source, authorities: &str) -> wire::Source {
    let url = match source.origin.as_mut().unwrap() {
        Origin::S3(s3) => &mut s3.endpoint,
        Origin::Gcs(gcs) => &mut gcs.endpoint,
        Origin::Azure(azure) => &mut azure.endpoint,
        Origin::Http(http) => &mut http.url,
        Origin::HuggingFace(hub) => &mut hub.endpoint,
        other => panic!("{other:?} has no TLS"),
    };
    *url = url.replace("http://", "https://");
    source.authorities = authorities.to_owned();
    source
}

/// Lists and reads with the right authority alone, and says what is wrong with others.
pub async fn certificates_are_looked_at(store: &dyn Store) {
    let bytes = content("secured", 70_000);
    store.put("secured", &bytes).await;
    let (ours, others) = (Authority::new().unwrap(), Authority::new().unwrap());
    let [right, of_another_host, expired] = [Certificate::Right, Certificate::OfAnotherHost, Certificate::Expired]
        .map(|certificate| before(store.address(), &ours, certificate));
    let at =
        |server: &(Nginx, TempDir), authorities: &str| client(&over_tls(store.source(server.0.address), authorities));
    let bundle = others.pem() + &ours.pem();
    let origin = at(&right, &bundle);
    let listed = one(&*origin, "secured").await;
    assert!(read(&*origin, &listed).await.unwrap() == bytes);
    for (server, authorities, says) in [
        (
            &right,
            "",
            "an authority that is not known here; add the certificate of that authority to caBundle",
        ),
        (&right, &*others.pem(), "correct caBundle"),
        (&of_another_host, &bundle, "is for other hosts than 127.0.0.1"),
        (&expired, &bundle, "has expired (it was valid until 2020-12-31"),
    ] {
        let origin = at(server, authorities);
        for error in [
            origin.list_all().await.unwrap_err(),
            read(&*origin, &listed).await.unwrap_err(),
        ] {
            assert!(
                matches!(&error, OriginError::Unreachable(text) if text.contains(says)),
                "{error:?}"
            );
        }
    }
    store.remove("secured").await;
}
