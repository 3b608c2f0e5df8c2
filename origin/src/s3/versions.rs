//! Versions that a bucket keeps of objects that were overwritten or deleted ("Using versioning in S3 buckets", Amazon S3 User Guide).
//!
//! A listing names ETags, not ids of versions: those would cost a listing of their own. So an id is looked for when an object is not any
//! more what was listed, and remembered; that there is none too, for a while.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crate::limits::{NO_VERSION_AGE_MAX, VERSIONS_KNOWN_MAX};
use crate::transport::unquoted;

/// What was looked for, by key and ETag.
#[derive(Default)]
pub(super) struct Versions(Mutex<HashMap<(String, String), Found>>);

enum Found {
    Id(String),
    /// None at this time.
    None(Instant),
}

impl Versions {
    pub(super) fn id(&self, key: &str, tag: &str) -> Option<String> {
        match self.lock().get(&(key.to_owned(), tag.to_owned())) {
            Some(Found::Id(id)) => Some(id.clone()),
            Some(Found::None(_)) | None => None,
        }
    }

    /// Whether there was none a moment ago.
    pub(super) fn has_none(&self, key: &str, tag: &str) -> bool {
        self.had_none(key, tag, Instant::now())
    }

    pub(super) fn remember(&self, key: &str, tag: &str, id: &str) {
        self.found(key, tag, Found::Id(id.to_owned()));
    }

    pub(super) fn remember_none(&self, key: &str, tag: &str) {
        self.found(key, tag, Found::None(Instant::now()));
    }

    fn had_none(&self, key: &str, tag: &str, now: Instant) -> bool {
        match self.lock().get(&(key.to_owned(), tag.to_owned())) {
            Some(Found::None(at)) => now.saturating_duration_since(*at) < NO_VERSION_AGE_MAX,
            Some(Found::Id(_)) | None => false,
        }
    }

    fn found(&self, key: &str, tag: &str, found: Found) {
        let mut known = self.lock();
        if known.len() >= VERSIONS_KNOWN_MAX {
            // They are found again.
            known.clear();
        }
        known.insert((key.to_owned(), tag.to_owned()), found);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Found>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// ListVersionsResult of ListObjectVersions, as far as it is needed.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", rename = "ListVersionsResult")]
struct Answer {
    encoding_type: Option<String>,
    #[serde(default)]
    version: Vec<Version>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    key: String,
    version_id: String,
    #[serde(rename = "ETag")]
    tag: Option<String>,
}

/// The id of the version of `key` with this ETag, in an answer. `None` also when the answer is not understood.
pub(super) fn find(xml: &[u8], key: &str, tag: &str) -> Option<String> {
    let Answer { encoding_type, version } = quick_xml::de::from_reader(xml).ok()?;
    let is_encoded = encoding_type.is_some_and(|encoding| encoding.eq_ignore_ascii_case("url"));
    let is_it = |version: &Version| {
        let named = if is_encoded {
            let spaced = version.key.replace('+', " ");
            percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
        } else {
            version.key.clone()
        };
        // What was there before versioning began is called "null".
        named == key && version.tag.as_deref().map(unquoted) == Some(tag)
    };
    version.into_iter().find(is_it).map(|version| version.version_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_with_the_key_and_the_tag_is_found() {
        let xml = b"<ListVersionsResult><EncodingType>url</EncodingType>\
            <Version><Key>a+b</Key><VersionId>3</VersionId><IsLatest>true</IsLatest><ETag>&quot;new&quot;</ETag></Version>\
            <DeleteMarker><Key>a+b</Key><VersionId>4</VersionId></DeleteMarker>\
            <Version><Key>a+bc</Key><VersionId>2</VersionId><ETag>&quot;old&quot;</ETag></Version>\
            <Version><Key>a+b</Key><VersionId>null</VersionId><ETag>&quot;old&quot;</ETag></Version>\
            </ListVersionsResult>";
        assert_eq!(find(xml, "a b", "old").as_deref(), Some("null"));
        assert_eq!(find(xml, "a b", "new").as_deref(), Some("3"));
        assert_eq!(find(xml, "a b", "older"), None);
        assert_eq!(find(b"<html>", "a b", "old"), None);
    }

    #[test]
    fn what_is_known_is_bounded() {
        let versions = Versions::default();
        for number in 0..VERSIONS_KNOWN_MAX {
            versions.remember(&number.to_string(), "t", "id");
        }
        assert!(versions.id("0", "t").is_some());
        versions.remember("one more", "t", "id");
        assert_eq!(versions.id("0", "t"), None);
        assert_eq!(versions.id("one more", "t").as_deref(), Some("id"));
    }

    #[test]
    fn that_there_is_none_is_known_for_a_while() {
        let versions = Versions::default();
        assert!(!versions.has_none("key", "t"));
        versions.remember_none("key", "t");
        assert_eq!(versions.id("key", "t"), None);
        assert!(versions.has_none("key", "t") && !versions.has_none("key", "u") && !versions.has_none("yek", "t"));
        assert!(!versions.had_none("key", "t", Instant::now() + NO_VERSION_AGE_MAX));
        versions.remember("key", "t", "id");
        assert!(!versions.has_none("key", "t"));
    }
}
