//! S3 look-alikes that do not do what was asked: their bytes must not reach a reader.

use std::sync::Arc;

use penstock_cache_node::origin::Origin;
use penstock_cache_node::origin::s3::{S3Config, S3Origin};
use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::SpaceId;
use penstock_revision::{BuildOptions, Listed, Outcome, SourceListing, Version, build};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::generated::bytes;

const OBJECT: u64 = 8 << 20;

/// Answers every GET with the whole object, whatever range was asked for.
async fn serve_whole_objects(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut request, mut piece) = (Vec::new(), [0; 4096]);
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read(&mut piece).await {
                    Ok(read) if read > 0 => request.extend_from_slice(&piece[..read]),
                    _ => return,
                }
            }
            let head =
                format!("HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: {OBJECT}\r\nConnection: close\r\n\r\n");
            // Whoever has enough hangs up.
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&bytes(0..OBJECT)).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_ranges_gives_an_error_and_no_wrong_bytes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(serve_whole_objects(listener));
    let origin = S3Origin::new(S3Config {
        bucket: "bucket".into(),
        prefix: String::new(),
        region: String::new(),
        endpoint,
        virtual_host_style: false,
        credentials: None,
    })
    .unwrap();
    let listing = SourceListing {
        identity: origin.identity(),
        path: String::new(),
        objects: vec![Listed {
            key: "object".into(),
            bytes: OBJECT,
            modified_unix_nanos: 0,
            version: Version::ETag("1".into()),
        }],
    };
    let Outcome::New(package) = build(SpaceId([9; 16]), None, &[listing], &BuildOptions::default()).unwrap() else {
        panic!("a first revision is new")
    };
    let folder = tempfile::tempdir().unwrap();
    let tier = penstock_cache_node::TierConfig {
        name: "ssd".into(),
        path: folder.path().into(),
        capacity_bytes: 1 << 40,
    };
    let engine = penstock_cache_node::Engine::open(penstock_cache_node::EngineConfig { tier }).unwrap();
    let dataset = penstock_cache_node::Dataset {
        uid: "d".into(),
        origins: vec![Arc::new(origin)],
        revisions: vec![package.clone()],
    };
    engine.set_datasets(&[dataset], false);
    let range = BlockRange::new(5 << 20, 4096).unwrap();
    let got = crate::scene::read(&engine, &package, range).await;
    server.abort();
    if let Ok(got) = got {
        assert!(
            got == bytes(5 << 20..(5 << 20) + 4096),
            "the first bytes of the object were given for those at 5 MiB"
        );
    }
}
