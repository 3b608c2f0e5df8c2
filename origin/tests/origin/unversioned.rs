//! Files of web servers that say too little of their versions.

use penstock_origin::http::HttpOrigin;
use penstock_origin::limits::{HTTP_QUESTIONS_MAX, JUST_CHANGED_MAX};
use penstock_origin::{Network, Origin, OriginError, proof};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, Version};

use crate::web::{How, Web, content, read};

fn allowing(web: &Web, unversioned: &[&str]) -> Result<HttpOrigin, OriginError> {
    let config = wire::Http {
        url: web.url.clone(),
        unversioned: unversioned.iter().map(|pattern| (*pattern).to_owned()).collect(),
        ..Default::default()
    };
    HttpOrigin::new(config, &Network::default())
}

async fn only(origin: &HttpOrigin) -> Listed {
    let [listed] = origin.list_all().await.unwrap().try_into().unwrap();
    listed
}

#[tokio::test(flavor = "multi_thread")]
async fn files_without_a_version_are_taken_where_they_are_allowed_by_name() {
    let web = Web::with(How::NoVersion, &["a.csv", "deep/b.csv", "c.tar"]).await;
    for allowed in [&[][..], &["*.csv"], &["a.csv", "c.tar", "b.csv/**"]] {
        let error = allowing(&web, allowed)
            .unwrap()
            .list_all()
            .await
            .unwrap_err()
            .to_string();
        let says = "gives neither a strong ETag nor the time of the last change of";
        assert!(
            error.contains(says) && error.contains("allowUnversioned"),
            "{allowed:?}: {error}"
        );
    }
    let origin = allowing(&web, &["deep/**", "[ac].*"]).unwrap();
    let listed = origin.list_all().await.unwrap();
    assert_eq!(listed.len(), 3);
    for one in &listed {
        assert!(one.version.is_unversioned(), "{one:?}");
        assert!(proof(one).starts_with("NOT proven"), "{}", proof(one));
        assert_eq!(read(&origin, one).await.unwrap(), content(&one.key));
    }
    assert_eq!(
        origin.list_all().await.unwrap(),
        listed,
        "what does not change is listed as it was"
    );
    let error = allowing(&web, &["[a"]).err().unwrap().to_string();
    assert!(error.contains("\"[a\" is no pattern"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_such_a_file_another_length_shows_and_nothing_else_does() {
    let web = Web::with(How::NoVersion, &["file"]).await;
    let origin = allowing(&web, &["file"]).unwrap();
    let before = only(&origin).await;
    // As long as before: it is what everybody was told who allowed it.
    web.put("file", &content("life"));
    assert_eq!(read(&origin, &before).await.unwrap(), content("life"));
    assert_eq!(only(&origin).await, before);
    web.put("file", &content("longer"));
    let error = read(&origin, &before).await.unwrap_err();
    assert!(matches!(error, OriginError::Drifted(_)), "{error}");
    assert_ne!(only(&origin).await.bytes, before.bytes);
    web.remove("file");
    let error = read(&origin, &before).await.unwrap_err();
    assert!(matches!(error, OriginError::Drifted(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_counts_also_where_none_is_asked_for() {
    for how in [How::Tags, How::Times] {
        let web = Web::with(how, &["file"]).await;
        let origin = allowing(&web, &["**"]).unwrap();
        let before = only(&origin).await;
        assert!(!before.version.is_unversioned(), "{before:?}");
        web.put("file", &content("life"));
        let error = read(&origin, &before).await.unwrap_err();
        assert!(matches!(error, OriginError::Drifted(_)), "{how:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_in_the_second_of_the_answer_is_asked_for_again() {
    let web = Web::with(How::JustChanged, &["file"]).await;
    let listed = only(&allowing(&web, &[]).unwrap()).await;
    assert_eq!(listed.version, Version::Modified(listed.modified_unix_nanos));
    assert_eq!(web.asked("HEAD"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_is_always_the_present_is_no_version() {
    let web = Web::with(How::Present, &["file"]).await;
    let error = allowing(&web, &[]).unwrap().list_all().await.unwrap_err().to_string();
    assert!(
        error.contains("always the present as the time of the last change of file"),
        "{error}"
    );
    assert_eq!(web.asked("HEAD"), 3);
    let listed = only(&allowing(&web, &["file"]).unwrap()).await;
    assert!(listed.version.is_unversioned(), "{listed:?}");
    assert_eq!(listed.modified_unix_nanos, 0, "it would be another one in each listing");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_is_always_new_what_is_allowed_is_asked_for_once() {
    let names: Vec<_> = (0..40).map(|number| number.to_string()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let web = Web::with(How::Present, &names).await;
    let listed = allowing(&web, &["*"]).unwrap().list_all().await.unwrap();
    assert_eq!(listed.len(), names.len());
    assert!(listed.iter().all(|one| one.version.is_unversioned()), "{listed:?}");
    // Those that are asked for before the first of them is known.
    let first = HTTP_QUESTIONS_MAX;
    let asked_max = first * JUST_CHANGED_MAX + (names.len() - first);
    assert!(web.asked("HEAD") <= asked_max, "{}", web.asked("HEAD"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_has_a_file_since_the_second_of_its_change_does_not_make_it_always_new() {
    let web = Web::with(How::Cached, &["file"]).await;
    let origin = allowing(&web, &[]).unwrap();
    let listed = only(&origin).await;
    assert_eq!(listed.version, Version::Modified(listed.modified_unix_nanos));
    assert_eq!(web.asked("HEAD"), 2, "an answer of no age may be of that second");
    assert_eq!(read(&origin, &listed).await.unwrap(), content("file"));
    // It may as well be a program's, which is known when the copy ends.
    let listed = only(&allowing(&web, &["file"]).unwrap()).await;
    assert!(listed.version.is_unversioned(), "{listed:?}");
}
