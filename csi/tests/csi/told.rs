//! What pods hear of their volumes after they were mounted.

use penstock_csi::told;
use penstock_protocol::connection::Connection;

use crate::mounter::{Serves, TestMounter, wait_until};
use crate::scene::{Scene, package};

fn connect(scene: &Scene) -> TestMounter {
    let packages = [package(1), package(2)];
    let mounter = TestMounter::connect(&scene.folders.keeper_socket(), &packages, Serves::InWords);
    wait_until("the mounter", || scene.keeper.has_mounter());
    mounter
}

/// Three pods of two Datasets.
async fn publish(scene: &Scene) {
    scene.dataset("first", &package(1));
    scene.dataset("second", &package(2));
    for (pod, dataset) in [("a", "first"), ("b", "first"), ("c", "second")] {
        scene.publish(pod, &[("dataset", dataset)]).await.unwrap();
    }
}

fn told(scene: &Scene) -> Vec<(String, &'static str)> {
    scene.cluster.objects().told.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pods_of_a_connection_that_is_refused_hear_of_it_and_no_others() {
    let (scene, _) = Scene::fake();
    let mounter = connect(&scene);
    publish(&scene).await;
    let first = mounter.seen().served[0].connection.clone().unwrap();
    told::refused(scene.node.clone(), Connection::try_from(first).unwrap()).await;
    assert_eq!(told(&scene), [("a".into(), "ReadsFail"), ("b".into(), "ReadsFail")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_whose_connection_nobody_holds_hear_that_it_is_lost() {
    let (mut scene, _) = Scene::fake();
    let before = connect(&scene);
    publish(&scene).await;
    told::lost(scene.node.clone(), scene.keeper.clone()).await;
    assert_eq!(told(&scene), [], "everything is held");

    // csi and mounter begin anew with nothing.
    drop(before);
    scene.restart();
    let _mounter = connect(&scene);
    scene.dataset("first", &package(1));
    scene.publish("new", &[("dataset", "first")]).await.unwrap();
    told::lost(scene.node.clone(), scene.keeper.clone()).await;
    let lost = ["a", "b", "c"].map(|pod| (pod.to_owned(), "ReadsLost"));
    assert_eq!(told(&scene), lost, "the new pod has a mount of its own");
}
