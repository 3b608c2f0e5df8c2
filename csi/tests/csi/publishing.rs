//! Volumes of Datasets: what is mounted when, what is shared, what heals.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use penstock_csi::mounts::fake::What;
use penstock_csi::proto::csi;
use penstock_csi::proto::csi::node_server::Node as _;
use penstock_mount::forms::Form;
use penstock_protocol::ids::RevisionId;
use penstock_revision::Package;
use rustix::io::Errno;
use tonic::{Code, Request};

use crate::mounter::{Serves, TestMounter, byte_at, wait_until};
use crate::scene::{Scene, package};

const INLINE: &[(&str, &str)] = &[("dataset", "imagenet")];

fn connect(scene: &Scene, packages: &[Package], serves: Serves) -> TestMounter {
    let mounter = TestMounter::connect(&scene.folders.keeper_socket(), packages, serves);
    wait_until("the mounter", || scene.keeper.has_mounter());
    mounter
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_start_together_share_one_mount_and_the_last_one_takes_it_down() {
    let (scene, mounts) = Scene::fake();
    let (scene, package) = (Arc::new(scene), package(1));
    scene.dataset("imagenet", &package);
    let mounter = connect(&scene, &[package], Serves::InWords);
    let pods = ["a", "b", "c", "d"];
    let published = pods.map(|pod| {
        let scene = scene.clone();
        tokio::spawn(async move { scene.publish(pod, INLINE).await })
    });
    for published in published {
        published.await.unwrap().unwrap();
    }
    assert_eq!(mounter.seen().fetched.len(), 1);
    assert_eq!(mounter.seen().served.len(), 1);
    // The connection, the image, and a bind for each pod.
    assert_eq!(mounts.shown().len(), 2 + pods.len(), "{:?}", mounts.shown());

    for pod in pods {
        assert_eq!(mounter.seen().stopped, 0);
        scene.unpublish(pod).await.unwrap();
    }
    assert_eq!(mounts.shown(), Vec::<String>::new());
    assert_eq!(mounts.aborted().len(), 1);
    wait_until("the mounter to be told", || mounter.seen().stopped == 1);
    assert_eq!(
        fs::read_dir(scene.folders.images()).unwrap().count(),
        0,
        "the image is gone too"
    );
    assert_eq!(fs::read_dir(scene.folders.revisions()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_end_together_leave_nothing() {
    let (scene, mounts) = Scene::fake();
    let (scene, package) = (Arc::new(scene), package(1));
    scene.dataset("imagenet", &package);
    let _mounter = connect(&scene, &[package], Serves::InWords);
    let pods = ["a", "b", "c"];
    for round in 0..100 {
        for pod in pods {
            scene.publish(pod, INLINE).await.unwrap();
        }
        let unpublished = pods.map(|pod| {
            let scene = scene.clone();
            tokio::spawn(async move { scene.unpublish(pod).await })
        });
        for unpublished in unpublished {
            unpublished.await.unwrap().unwrap();
        }
        assert_eq!(mounts.shown(), Vec::<String>::new(), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_revision_is_read_through_the_target_and_nothing_is_left_behind() {
    for form in Form::ALL {
        a_real_revision_is_read_in(form).await;
    }
}

async fn a_real_revision_is_read_in(form: Form) {
    let scene = Scene::real_in(form);
    let package = package(3);
    scene.dataset("imagenet", &package);
    let runtime = tokio::runtime::Handle::current();
    let mounter = connect(&scene, std::slice::from_ref(&package), Serves::Really(runtime));
    scene.publish("a", INLINE).await.unwrap();
    scene.publish("b", INLINE).await.unwrap();
    let image = usize::from(form == Form::Fuse);
    assert_eq!(
        mounter.seen().descriptors,
        4 + image,
        "the connection, its clones, the image"
    );

    let (a, b) = (scene.target("a"), scene.target("b"));
    for extent in package.all_extents() {
        let extent = extent.unwrap();
        let content = fs::read(a.join(&extent.object.key)).unwrap();
        let expected: Vec<u8> = (extent.address..extent.address + extent.bytes).map(byte_at).collect();
        assert!(content == expected, "{}", extent.object.key);
    }
    assert_eq!(
        fs::metadata(&a).unwrap().dev(),
        fs::metadata(&b).unwrap().dev(),
        "one page cache"
    );
    let written = fs::write(a.join("new"), "x").unwrap_err();
    assert_eq!(written.raw_os_error(), Some(Errno::ROFS.raw_os_error()));

    let statistics = csi::NodeGetVolumeStatsRequest {
        volume_id: "v".into(),
        volume_path: a.display().to_string(),
        ..csi::NodeGetVolumeStatsRequest::default()
    };
    let usage = scene
        .service()
        .node_get_volume_stats(Request::new(statistics))
        .await
        .unwrap();
    let usage = usage.into_inner().usage;
    let inodes = package.summary().files + package.summary().directories;
    assert_eq!(usage[1].used, inodes as i64);
    assert!(usage[0].used as u64 >= package.summary().bytes);

    scene.unpublish("a").await.unwrap();
    assert!(!a.exists() && b.join("folder-0").exists());
    scene.unpublish("b").await.unwrap();
    assert_eq!(scene.mounted(), Vec::<String>::new());
}

/// The backing devices of all images that are mounted on this machine.
fn backing_devices() -> BTreeSet<PathBuf> {
    let entries = fs::read_dir("/sys/class/bdi").unwrap();
    let devices = entries.map(|entry| entry.unwrap().path());
    let of_image = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("erofs-");
    devices.filter(of_image).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_reads_ahead_on_a_revision() {
    let scene = Scene::real();
    let package = package(1);
    scene.dataset("imagenet", &package);
    let _mounter = connect(&scene, &[package], Serves::Really(tokio::runtime::Handle::current()));
    // Nothing says whose a backing device is; it is ours when no other test mounted an image at the same moment.
    for _ in 0..100 {
        let before = backing_devices();
        scene.publish("a", INLINE).await.unwrap();
        let new: Vec<_> = backing_devices().difference(&before).cloned().collect();
        if let [ours] = &new[..] {
            assert_eq!(fs::read_to_string(ours.join("read_ahead_kb")).unwrap().trim(), "1024");
            return scene.unpublish("a").await.unwrap();
        }
        scene.unpublish("a").await.unwrap();
    }
    panic!("other tests mounted images all the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_keeps_its_revision_and_a_new_pod_gets_the_newest() {
    let (scene, mounts) = Scene::fake();
    let (first, second) = (package(1), package(2));
    scene.dataset("imagenet", &first);
    let _mounter = connect(&scene, &[first, second.clone()], Serves::InWords);
    scene.publish("old", INLINE).await.unwrap();
    let before = mounts.shown();
    scene.dataset("imagenet", &second);
    scene.publish("old", INLINE).await.unwrap();
    assert_eq!(mounts.shown(), before, "a repeated publish changes nothing");
    scene.publish("new", INLINE).await.unwrap();
    assert_eq!(mounts.shown().len(), 6);
    scene.unpublish("old").await.unwrap();
    assert_eq!(mounts.shown().len(), 3);
    scene.unpublish("old").await.unwrap();
    scene.unpublish("new").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_yet_is_unavailable_with_a_sentence_and_heals() {
    let (scene, mounts) = Scene::fake();
    let package = package(1);
    let failed = scene.publish("a", INLINE).await.unwrap_err();
    assert_eq!(failed.code(), Code::NotFound);
    assert!(
        failed
            .message()
            .contains("there is no Dataset imagenet in namespace vision")
    );

    scene.dataset("imagenet", &package);
    let status = scene
        .cluster
        .objects()
        .datasets
        .values_mut()
        .next()
        .unwrap()
        .status
        .take();
    let failed = scene.publish("a", INLINE).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);
    assert!(failed.message().contains("kubectl describe dataset imagenet -n vision"));

    scene.cluster.objects().datasets.values_mut().next().unwrap().status = status;
    let failed = scene.publish("a", INLINE).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);
    assert!(failed.message().contains("the mounter of this node is not running yet"));

    let nothing_cached = connect(&scene, &[], Serves::InWords);
    let failed = scene.publish("a", INLINE).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);
    assert!(failed.message().contains("no cache node has the package"));
    drop(nothing_cached);
    wait_until("the mounter's end", || !scene.keeper.has_mounter());

    scene.cluster.objects().unreachable = true;
    assert_eq!(scene.publish("a", INLINE).await.unwrap_err().code(), Code::Unavailable);
    scene.cluster.objects().unreachable = false;
    assert_eq!(mounts.shown(), Vec::<String>::new());
    assert!(!scene.target("a").exists());

    let _mounter = connect(&scene, &[package], Serves::InWords);
    scene.publish("a", INLINE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_a_dataset_that_was_made_again_is_not_found() {
    let (scene, _) = Scene::fake();
    scene.dataset("imagenet", &package(1));
    let context = [
        ("csi.storage.k8s.io/ephemeral", "false"),
        ("dataset", "imagenet"),
        ("namespace", "vision"),
        ("uid", "another"),
    ];
    let request = csi::NodePublishVolumeRequest {
        volume_id: "another".into(),
        target_path: scene.target("a").display().to_string(),
        volume_capability: Some(crate::scene::read_write_once()),
        volume_context: context.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..csi::NodePublishVolumeRequest::default()
    };
    let failed = scene
        .service()
        .node_publish_volume(Request::new(request))
        .await
        .unwrap_err();
    assert_eq!(failed.code(), Code::NotFound);
    assert!(
        failed.message().contains("deleted and made again"),
        "{}",
        failed.message()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_of_another_digest_is_never_mounted() {
    let (scene, mounts) = Scene::fake();
    let (wanted, forged) = (package(1), package(2));
    scene.dataset("imagenet", &wanted);
    let packages: HashMap<RevisionId, Package> = [(wanted.id(), forged)].into();
    let _mounter = TestMounter::connect_with(&scene.folders.keeper_socket(), packages, Serves::InWords);
    wait_until("the mounter", || scene.keeper.has_mounter());
    let failed = scene.publish("a", INLINE).await.unwrap_err();
    assert!(failed.message().contains("damaged package"), "{}", failed.message());
    assert_eq!(mounts.shown(), Vec::<String>::new());
    assert!(!scene.folders.images().join(wanted.id().to_string()).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_fails_halfway_is_undone_and_works_later() {
    let (scene, mounts) = Scene::fake();
    let package = package(1);
    scene.dataset("imagenet", &package);
    let mounter = connect(&scene, &[package], Serves::InWords);
    for (what, errno, part) in [
        (What::Space, Errno::PERM, "this needs root"),
        (What::Revision, Errno::NOTBLK, "put the cache folder there"),
        (What::Folder, Errno::IO, "mount at"),
    ] {
        mounts.fail(Some((what, errno)));
        let failed = scene.publish("a", INLINE).await.unwrap_err();
        assert_eq!(failed.code(), Code::Internal);
        let sentence = failed.message();
        assert!(sentence.contains(part) || what != What::Revision, "{sentence}");
        assert_eq!(mounts.shown(), Vec::<String>::new(), "{what:?}");
        assert_eq!(scene.keeper.kept(), 0);
        assert!(!scene.target("a").exists());
        let images = std::fs::read_dir(scene.folders.images()).into_iter().flatten();
        assert_eq!(images.count(), 0, "{what:?}: an image that nobody mounts is left");
    }
    mounts.fail(None);
    scene.publish("a", INLINE).await.unwrap();
    assert_eq!(mounter.seen().served.last().map(|serve| serve.initialised), Some(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_unpublish_could_not_end_a_later_one_ends() {
    let (scene, mounts) = Scene::fake();
    let package = package(1);
    scene.dataset("imagenet", &package);
    let _mounter = connect(&scene, &[package], Serves::InWords);
    scene.publish("a", INLINE).await.unwrap();
    mounts.hold(Some(&scene.folders.revisions()));
    assert!(scene.unpublish("a").await.is_err());
    mounts.hold(None);
    // The kubelet asks again, though the pod shows nothing any more.
    scene.unpublish("a").await.unwrap();
    assert_eq!(mounts.shown(), Vec::<String>::new());
    assert_eq!(scene.keeper.kept(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounter_that_comes_anew_is_handed_what_is_mounted() {
    let (scene, _) = Scene::fake();
    let package = package(1);
    scene.dataset("imagenet", &package);
    let first = connect(&scene, std::slice::from_ref(&package), Serves::InWords);
    scene.publish("a", INLINE).await.unwrap();
    drop(first);
    wait_until("the mounter's end", || !scene.keeper.has_mounter());

    let second = connect(&scene, &[], Serves::InWords);
    // Only then its answer has come back too.
    wait_until("the hand-over", || scene.keeper.served() == 1);
    let serve = second.seen().served[0].clone();
    assert_eq!(
        (serve.connection.unwrap().revision.as_slice(), serve.initialised),
        (&package.id().as_bytes()[..], true)
    );
    assert_eq!(second.seen().descriptors, 1);
    // It is mounted, so another pod needs no package.
    scene.publish("b", INLINE).await.unwrap();
    assert!(second.seen().fetched.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_old_pods_keep_their_mount_and_new_pods_get_a_fresh_one() {
    let (mut scene, mounts) = Scene::fake();
    let package = package(1);
    scene.dataset("imagenet", &package);
    let before = connect(&scene, std::slice::from_ref(&package), Serves::InWords);
    scene.publish("old", INLINE).await.unwrap();
    drop(before);
    scene.restart();
    let after = connect(&scene, &[package], Serves::InWords);
    assert_eq!(mounts.shown().len(), 3, "everything is still there");
    assert!(after.seen().served.is_empty(), "its descriptors are lost");

    scene.publish("new", INLINE).await.unwrap();
    assert!(after.seen().fetched.is_empty(), "the image was still on the disk");
    assert_eq!(after.seen().served.len(), 1);
    assert_eq!(mounts.shown().len(), 6);
    scene.unpublish("old").await.unwrap();
    // In the product the old FUSE mount ended with the old process's namespace.
    let images = mounts.shown().iter().filter(|mount| mount.starts_with("erofs")).count();
    assert_eq!(images, 2, "the new mount and its bind: {:?}", mounts.shown());
    scene.unpublish("new").await.unwrap();
    assert!(!mounts.shown().iter().any(|mount| mount.starts_with("erofs")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_predecessor_left_unused_is_removed_at_the_start() {
    let (mut scene, mounts) = Scene::fake();
    let package = package(1);
    scene.dataset("imagenet", &package);
    let _mounter = connect(&scene, &[package], Serves::InWords);
    scene.publish("a", INLINE).await.unwrap();
    // The pod's mount ends while nobody looks, as in a reboot.
    penstock_csi::mounts::Mounts::unmount(&*mounts, &scene.target("a"), None).unwrap();
    scene.restart();
    assert!(
        !mounts.shown().iter().any(|mount| mount.starts_with("erofs")),
        "{:?}",
        mounts.shown()
    );
    assert_eq!(fs::read_dir(scene.folders.images()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounter_that_does_not_answer_hangs_neither_the_call_nor_the_node() {
    let scene = Scene::real();
    let package = package(1);
    scene.dataset("imagenet", &package);
    // It says that it serves, but leaves the kernel without an answer.
    let mounter = connect(&scene, std::slice::from_ref(&package), Serves::InWords);
    let failed = scene.publish("a", INLINE).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable, "{failed}");
    assert!(failed.message().contains("did not answer the kernel"), "{failed}");
    assert_eq!(scene.mounted(), Vec::<String>::new());
    drop(mounter);
    wait_until("the mounter's end", || !scene.keeper.has_mounter());

    let mounter = connect(&scene, std::slice::from_ref(&package), Serves::Never);
    let failed = scene.publish("a", INLINE).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable, "{failed}");
    assert_eq!(scene.mounted(), Vec::<String>::new());
    drop(mounter);
    wait_until("the mounter's end", || !scene.keeper.has_mounter());

    let _mounter = connect(&scene, &[package], Serves::Really(tokio::runtime::Handle::current()));
    scene.publish("a", INLINE).await.unwrap();
    scene.unpublish("a").await.unwrap();
    assert_eq!(scene.mounted(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounter_that_shows_a_link_or_a_pipe_in_place_of_the_space_leads_nobody_there() {
    let (link, pipe) = (0o120_000, 0o010_000);
    for (form, kind) in [Form::File, Form::Loop]
        .into_iter()
        .flat_map(|form| [(form, link), (form, pipe)])
    {
        let scene = Scene::real_in(form);
        let package = package(1);
        scene.dataset("imagenet", &package);
        let runtime = tokio::runtime::Handle::current();
        let _mounter = connect(&scene, &[package], Serves::Disguised(runtime, kind));
        let refused = scene.publish("a", INLINE).await.unwrap_err();
        assert!(
            refused.message().contains("regular file"),
            "{form:?} {kind:o}: {refused}"
        );
        assert_eq!(scene.mounted(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unpublish_ends_while_a_read_is_left_unanswered() {
    for form in Form::ALL {
        unpublish_ends_in(form).await;
    }
}

async fn unpublish_ends_in(form: Form) {
    let scene = Scene::real_in(form);
    let package = package(1);
    scene.dataset("imagenet", &package);
    let mounter = connect(
        &scene,
        std::slice::from_ref(&package),
        Serves::Stuck(tokio::runtime::Handle::current()),
    );
    scene.publish("a", INLINE).await.unwrap();
    let file = scene.target("a").join("folder-1/file-1");
    let reader = std::thread::spawn(move || fs::read(file));
    wait_until("the read", || mounter.seen().stuck.load(Ordering::SeqCst));
    scene.unpublish("a").await.unwrap();
    assert!(reader.join().unwrap().is_err(), "the read ended with an error");
    assert_eq!(scene.mounted(), Vec::<String>::new());
}
