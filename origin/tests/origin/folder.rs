//! Folders of this machine as origins.

use std::os::unix::fs::symlink;
use std::path::Path;

use futures::TryStreamExt;
use penstock_origin::folder::FolderOrigin;
use penstock_origin::{Origin, OriginError};
use penstock_revision::{Listed, ObjectVersion};

fn origin(path: &Path) -> FolderOrigin {
    let path = path.to_str().unwrap().to_owned();
    FolderOrigin::new(path).unwrap()
}

async fn listed(origin: &FolderOrigin) -> Vec<Listed> {
    let mut listed = origin.list_all().await.unwrap();
    listed.sort_by(|a, b| a.key.cmp(&b.key));
    listed
}

async fn read(origin: &FolderOrigin, listed: &Listed) -> Result<Vec<u8>, OriginError> {
    let object = ObjectVersion {
        source: 0,
        key: listed.key.clone(),
        version: listed.version.clone(),
    };
    let body = origin.read(&object, listed.bytes, 0..listed.bytes).await?;
    Ok(body.try_collect::<Vec<_>>().await?.concat())
}

#[tokio::test]
async fn files_and_empty_folders_are_listed_and_links_lead_nowhere_else() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| folder.path().join(name);
    std::fs::write(elsewhere.path().join("secret"), "secret").unwrap();
    std::fs::create_dir_all(at("deep/er")).unwrap();
    std::fs::create_dir(at("empty")).unwrap();
    for name in ["a b", "deep/er/x%2F", "é"] {
        std::fs::write(at(name), name).unwrap();
    }
    symlink("deep/er/x%2F", at("link")).unwrap();
    symlink("er/x%2F", at("deep/link")).unwrap();
    symlink(".", at("circle")).unwrap();
    symlink("gone", at("dead")).unwrap();
    symlink(elsewhere.path().join("secret"), at("out")).unwrap();
    symlink("/proc/self/environ", at("magic")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let origin = origin(folder.path());
    let listed = listed(&origin).await;
    let keys: Vec<_> = listed.iter().map(|listed| listed.key.as_str()).collect();
    assert_eq!(keys, ["a b", "deep/er/x%2F", "deep/link", "empty/", "link", "é"]);
    for one in listed.iter().filter(|one| one.bytes > 0) {
        let expected = if one.key.contains("link") {
            "deep/er/x%2F"
        } else {
            &one.key
        };
        assert_eq!(read(&origin, one).await.unwrap(), expected.as_bytes());
    }
}

#[tokio::test]
async fn a_file_that_becomes_another_while_it_is_read_does_not_come_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let before = vec![1; 3 << 20];
    std::fs::write(&path, &before).unwrap();
    let origin = origin(folder.path());
    let [file] = listed(&origin).await.try_into().unwrap();
    let object = ObjectVersion {
        source: 0,
        key: file.key.clone(),
        version: file.version.clone(),
    };
    for change in ["written to", "replaced"] {
        let mut body = origin.read(&object, file.bytes, 0..file.bytes).await.unwrap();
        body.try_next().await.unwrap().unwrap();
        let after = vec![2; before.len()];
        if change == "replaced" {
            std::fs::write(folder.path().join("new"), &after).unwrap();
            std::fs::rename(folder.path().join("new"), &path).unwrap();
            // Who has it open goes on with what was listed.
            let rest: Vec<_> = body.try_collect().await.unwrap();
            assert!(rest.concat().iter().all(|byte| *byte == 1));
        } else {
            std::fs::write(&path, &after).unwrap();
            let next = body.try_next().await;
            assert!(
                matches!(next, Err(OriginError::Drifted(_))),
                "{change}: not one more piece"
            );
            std::fs::write(&path, &before).unwrap();
        }
        let error = read(&origin, &file).await.unwrap_err();
        assert!(matches!(error, OriginError::Drifted(_)), "{change}: {error}");
        if change == "written to" {
            let [again] = listed(&origin).await.try_into().unwrap();
            assert_ne!(again.version, file.version);
            // As it was, in every way that is listed.
            let times = std::fs::File::options().write(true).open(&path).unwrap();
            let nanos = u64::try_from(file.modified_unix_nanos).unwrap();
            let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(nanos);
            times.set_modified(time).unwrap();
        }
    }
}

#[tokio::test]
async fn what_cannot_be_listed_says_why() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "x").unwrap();
    let gone = origin(&folder.path().join("gone")).list_all().await.unwrap_err();
    assert!(
        matches!(&gone, OriginError::NotFound(text) if text.contains("/gone does not exist")),
        "{gone:?}"
    );
    let file = origin(&folder.path().join("file")).list_all().await.unwrap_err();
    assert!(
        matches!(&file, OriginError::Invalid(text) if text.contains("is no folder")),
        "{file:?}"
    );
    let relative = FolderOrigin::new("data".into()).err();
    assert!(matches!(relative, Some(OriginError::Invalid(_))));
}
