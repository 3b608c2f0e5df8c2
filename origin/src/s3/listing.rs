//! What S3 says in XML: the pages of a listing. Pure.

use penstock_revision::{Listed, Version};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crate::transport::unquoted;

/// One page of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Their keys are whole.
    pub(super) objects: Vec<Listed>,
    /// What to ask for next.
    pub(super) next: Option<String>,
}

/// ListBucketResult of ListObjectsV2, as far as it is needed.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", rename = "ListBucketResult")]
struct Answer {
    is_truncated: bool,
    next_continuation_token: Option<String>,
    encoding_type: Option<String>,
    #[serde(default)]
    contents: Vec<Object>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    key: String,
    size: u64,
    last_modified: Option<String>,
    #[serde(rename = "ETag")]
    tag: Option<String>,
}

/// The page in an answer. The error says what the server does wrong.
pub(super) fn page(xml: &[u8]) -> Result<Page, String> {
    let Answer {
        is_truncated,
        next_continuation_token,
        encoding_type,
        contents,
    } = quick_xml::de::from_reader(xml).map_err(|error| format!("lists what is not understood ({error})"))?;
    // The server says whether it did what it was asked for.
    let is_encoded = encoding_type.is_some_and(|encoding| encoding.eq_ignore_ascii_case("url"));
    let objects = contents.into_iter().map(
        |Object {
             key,
             size,
             last_modified,
             tag,
         }| Listed {
            key: if is_encoded { decoded(&key) } else { key },
            bytes: size,
            modified_unix_nanos: last_modified.map_or(0, |time| unix_nanos(&time)),
            version: tag
                .filter(|tag| !tag.is_empty())
                .map_or(Version::None, |tag| Version::ETag(unquoted(&tag).to_owned())),
        },
    );
    let next = next_continuation_token.filter(|_| is_truncated);
    if is_truncated && next.is_none() {
        return Err("says that there is more and not how to ask for it".to_owned());
    }
    Ok(Page {
        objects: objects.collect(),
        next,
    })
}

/// As in a form: AWS and others write a blank as a plus sign. What is no UTF-8 cannot be asked for either way.
fn decoded(key: &str) -> String {
    let key = key.replace('+', " ");
    percent_decode_str(&key).decode_utf8_lossy().into_owned()
}

/// 0 for what is no time or lies beyond 2262.
fn unix_nanos(time: &str) -> i64 {
    let time: Option<jiff::Timestamp> = time.parse().ok();
    time.and_then(|time| i64::try_from(time.as_nanosecond()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(inside: &str) -> Result<Page, String> {
        page(
            format!("<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{inside}</ListBucketResult>")
                .as_bytes(),
        )
    }

    #[test]
    fn a_page_is_understood_in_the_dialects_of_servers() {
        let object = "<Contents><Key>a+b%2B%2F</Key><Size>5</Size><ETag>&quot;1-2&quot;</ETag></Contents>";
        for (rest, key) in [
            (
                "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>",
                "a b+/",
            ),
            ("<IsTruncated>false</IsTruncated><Name>b</Name>", "a+b%2B%2F"),
        ] {
            let page = page_of(&format!(
                "{object}{rest}<CommonPrefixes><Prefix>x</Prefix></CommonPrefixes>{object}"
            ))
            .unwrap();
            let expected = Listed {
                key: key.into(),
                bytes: 5,
                modified_unix_nanos: 0,
                version: Version::ETag("1-2".into()),
            };
            assert_eq!(page.objects, [expected.clone(), expected], "{rest}");
        }
    }

    #[test]
    fn a_page_that_makes_no_sense_is_refused() {
        for inside in [
            "",
            "<IsTruncated>true</IsTruncated>",
            "<IsTruncated>false</IsTruncated><Contents><Key>a</Key></Contents>",
            "<IsTruncated>false</IsTruncated><Contents><Size>1</Size></Contents>",
            "<IsTruncated>false</IsTruncated><Contents><Key>a</Key><Size>-1</Size></Contents>",
        ] {
            assert!(page_of(inside).is_err(), "{inside:?}");
        }
        assert!(page(b"<html>").is_err() && page(b"").is_err());
    }
}
