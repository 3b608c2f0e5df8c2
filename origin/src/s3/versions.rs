//! Versions that a bucket keeps of objects that were overwritten or deleted ("Using versioning in S3 buckets", Amazon S3 User Guide).
//!
//! A listing names ETags, not ids of versions: those would cost a listing of their own. So an id is looked for when an object is not any
//! more what was listed, and remembered.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crate::limits::VERSIONS_KNOWN_MAX;
use crate::transport::unquoted;

/// Ids that were looked for, by key and ETag.
#[derive(Default)]
pub(super) struct Versions(Mutex<HashMap<(String, String), String>>);

impl Versions {
    pub(super) fn id(&self, key: &str, tag: &str) -> Option<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(key.to_owned(), tag.to_owned())).cloned()
    }

    pub(super) fn remember(&self, key: &str, tag: &str, id: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= VERSIONS_KNOWN_MAX {
            // They are found again.
            known.clear();
        }
        known.insert((key.to_owned(), tag.to_owned()), id.to_owned());
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
}
