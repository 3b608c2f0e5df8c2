//! What Azure says in XML: the pages of a listing. Pure.

use jiff::fmt::rfc2822;
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

/// EnumerationResults of List Blobs, as far as it is needed.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", rename = "EnumerationResults")]
struct Answer {
    blobs: Blobs,
    next_marker: Option<String>,
}

#[derive(Deserialize)]
struct Blobs {
    #[serde(default, rename = "Blob")]
    blobs: Vec<Blob>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Blob {
    name: Name,
    properties: Properties,
}

#[derive(Deserialize)]
struct Name {
    /// Whether it has characters that XML cannot hold and is written as in a URL.
    #[serde(default, rename = "@Encoded")]
    is_encoded: bool,
    #[serde(default, rename = "$text")]
    text: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Properties {
    #[serde(rename = "Last-Modified")]
    last_modified: Option<String>,
    #[serde(rename = "Etag")]
    tag: Option<String>,
    #[serde(rename = "Content-Length")]
    bytes: u64,
    /// `file` or `directory`, where the account has a hierarchy of names.
    resource_type: Option<String>,
}

/// The page in an answer. The error says what the server does wrong.
pub(super) fn page(xml: &[u8]) -> Result<Page, String> {
    let Answer {
        blobs: Blobs { blobs },
        next_marker,
    } = quick_xml::de::from_reader(xml).map_err(|error| format!("lists what is not understood ({error})"))?;
    let objects = blobs.into_iter().map(|Blob { name, properties }| {
        let Name { is_encoded, text } = name;
        let Properties {
            last_modified,
            tag,
            bytes,
            resource_type,
        } = properties;
        let mut key = if is_encoded { decoded(&text) } else { text };
        // As other stores mark a folder.
        if bytes == 0 && resource_type.is_some_and(|kind| kind.eq_ignore_ascii_case("directory")) {
            key.push('/');
        }
        Listed {
            key,
            bytes,
            modified_unix_nanos: last_modified.map_or(0, |time| unix_nanos(&time)),
            version: tag
                .filter(|tag| !tag.is_empty())
                .map_or(Version::None, |tag| Version::ETag(unquoted(&tag).to_owned())),
        }
    });
    Ok(Page {
        objects: objects.collect(),
        next: next_marker.filter(|marker| !marker.is_empty()),
    })
}

/// What is no UTF-8 cannot be asked for either way.
fn decoded(name: &str) -> String {
    percent_decode_str(name).decode_utf8_lossy().into_owned()
}

/// 0 for what is no time or lies beyond 2262.
fn unix_nanos(time: &str) -> i64 {
    let time = rfc2822::DateTimeParser::new().parse_timestamp(time.trim()).ok();
    time.and_then(|time| i64::try_from(time.as_nanosecond()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(name: &str, properties: &str) -> String {
        format!("<Blob><Name{name}</Name><Properties>{properties}</Properties><OrMetadata/></Blob>")
    }

    fn page_of(blobs: &str, rest: &str) -> Result<Page, String> {
        let xml = format!(
            "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ServiceEndpoint=\"https://a.blob.core.windows.net/\" \
             ContainerName=\"c\"><Prefix>p</Prefix><Blobs>{blobs}</Blobs>{rest}</EnumerationResults>"
        );
        page(xml.as_bytes())
    }

    #[test]
    fn names_folders_and_versions_are_understood_in_the_dialects_of_servers() {
        let length = "<Content-Length>5</Content-Length>";
        let folder = "<Content-Length>0</Content-Length><ResourceType>directory</ResourceType>";
        for (name, properties, key, bytes, tag) in [
            (">a b", length, "a b", 5, None),
            ("> a ", length, " a ", 5, None),
            (">a&amp;b%20+&lt;", length, "a&b%20+<", 5, None),
            (
                " Encoded=\"true\">a%EF%BF%BE%2Fb+%2520",
                length,
                "a\u{fffe}/b+%20",
                5,
                None,
            ),
            (" Encoded=\"false\">a%2F", length, "a%2F", 5, None),
            (
                ">a",
                "<Content-Length>5</Content-Length><Etag>0x8D</Etag>",
                "a",
                5,
                Some("0x8D"),
            ),
            (
                ">a",
                "<Etag>&quot;0x8D&quot;</Etag><Content-Length>5</Content-Length>",
                "a",
                5,
                Some("0x8D"),
            ),
            (">a/b", folder, "a/b/", 0, None),
            (
                ">a",
                "<Content-Length>0</Content-Length><ResourceType>file</ResourceType>",
                "a",
                0,
                None,
            ),
        ] {
            let page = page_of(&blob(name, properties), "<NextMarker />").unwrap();
            let expected = Listed {
                key: key.into(),
                bytes,
                modified_unix_nanos: 0,
                version: tag.map_or(Version::None, |tag| Version::ETag(tag.into())),
            };
            assert_eq!(page.objects, [expected], "{name} {properties}");
            assert_eq!(page.next, None);
        }
    }

    #[test]
    fn pages_go_on_while_there_is_a_marker() {
        let one = blob(
            ">a",
            "<Last-Modified>Fri, 02 Jan 2026 03:04:05 GMT</Last-Modified><Content-Length>1</Content-Length>",
        );
        let page = page_of(&format!("{one}{one}"), "<NextMarker>2!68!MDAw--</NextMarker>").unwrap();
        assert_eq!((page.objects.len(), page.next.as_deref()), (2, Some("2!68!MDAw--")));
        assert_eq!(page.objects[0].modified_unix_nanos, 1_767_323_045_000_000_000);
        assert_eq!(
            page_of("", ""),
            Ok(Page {
                objects: vec![],
                next: None
            })
        );
    }

    #[test]
    fn a_page_that_makes_no_sense_is_refused() {
        for blobs in [
            "<Blob/>",
            "<Blob><Name>a</Name></Blob>",
            "<Blob><Name>a</Name><Properties></Properties></Blob>",
            "<Blob><Name>a</Name><Properties><Content-Length>-1</Content-Length></Properties></Blob>",
            "<Blob><Properties><Content-Length>1</Content-Length></Properties></Blob>",
        ] {
            assert!(page_of(blobs, "").is_err(), "{blobs:?}");
        }
        for xml in ["", "<html>", "<EnumerationResults></EnumerationResults>"] {
            assert!(page(xml.as_bytes()).is_err(), "{xml:?}");
        }
    }
}
