use std::io;
use std::time::{Duration, Instant};

use penstock_cache_client::ClientError;
use penstock_protocol::frame::{PACKAGE_BYTES_MAX, Status};

use crate::fake_node::{Behaviour, FakeNode, content};
use crate::scene::{PATIENT, REVISION, SHORT, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn a_package_arrives_whole_whatever_its_length() {
    let scene = Scene::new(1, PATIENT);
    let piece = PACKAGE_BYTES_MAX as usize;
    for length in [0, 1, piece - 1, piece, piece + 1, 2 * piece + 77] {
        let package = content(0, length);
        scene.nodes[0].keep(REVISION, package.clone());
        let mut got = Vec::new();
        let sink = |bytes: &[u8]| {
            got.extend_from_slice(bytes);
            Ok(())
        };
        scene.client.package(&REVISION, sink).await.unwrap();
        assert!(got == package, "{length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_goes_on_where_one_died() {
    let scene = Scene::new(2, PATIENT);
    let package = content(0, 3 * PACKAGE_BYTES_MAX as usize + 5);
    scene.nodes.iter().for_each(|node| node.keep(REVISION, package.clone()));
    let (mut got, mut pieces) = (Vec::new(), 0);
    let sink = |bytes: &[u8]| {
        got.extend_from_slice(bytes);
        pieces += 1;
        if pieces == 1 {
            scene.nodes[0].kill();
        }
        Ok(())
    };
    scene.client.package(&REVISION, sink).await.unwrap();
    assert!(got == package && pieces == 4, "{} bytes in {pieces} pieces", got.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_that_has_the_package_is_found_once_and_a_hung_one_costs_once() {
    for lacking in [Behaviour::Serve, Behaviour::Hang] {
        let scene = Scene::new(3, PATIENT);
        let package = content(0, 3 * PACKAGE_BYTES_MAX as usize + 5);
        scene.nodes[2].keep(REVISION, package.clone());
        scene.nodes[0].behave(lacking);
        let (mut got, started) = (Vec::new(), Instant::now());
        let sink = |bytes: &[u8]| {
            got.extend_from_slice(bytes);
            Ok(())
        };
        scene.client.package(&REVISION, sink).await.unwrap();
        assert!(got == package);
        let pieces: Vec<usize> = scene.nodes.iter().map(FakeNode::pieces).collect();
        assert!(
            pieces[0] <= 1 && pieces[1] <= 1 && pieces[2] == 4,
            "{lacking:?}: {pieces:?}"
        );
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_nobody_has_is_unavailable() {
    let scene = Scene::new(2, SHORT);
    let error = scene.client.package(&REVISION, |_| Ok(())).await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refuses_is_passed_over() {
    let scene = Scene::new(2, PATIENT);
    scene.nodes[0].behave(Behaviour::Refuse(Status::Internal));
    scene.nodes[1].keep(REVISION, content(0, 100));
    let mut got = Vec::new();
    let sink = |bytes: &[u8]| {
        got.extend_from_slice(bytes);
        Ok(())
    };
    scene.client.package(&REVISION, sink).await.unwrap();
    assert_eq!(got, content(0, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_refuses_ends_the_download() {
    let scene = Scene::new(1, PATIENT);
    scene.nodes[0].keep(REVISION, content(0, 100));
    let full = |_: &[u8]| Err(io::Error::from(io::ErrorKind::StorageFull));
    let error = scene.client.package(&REVISION, full).await.unwrap_err();
    assert!(error.to_string().contains("no storage space"), "{error}");
}
