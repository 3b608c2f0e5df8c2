//! How the reader of a volume is asked, and what it answers: both sides of it, so that they cannot differ.
//!
//! ```text
//! GET /list/FOLDER                          lines of JSON: a file each, then `end`; or a fault, wherever it comes up
//! GET /read/FOLDER?bytes=LENGTH&key=KEY     206, if the file still has this length and the version of If-Match
//!     Range: bytes=0-99, If-Match: "VERSION"
//! ```
//!
//! FOLDER is relative to the volume, KEY to the folder. Whatever else it says is a status, with a fault as its body where words help.

use std::ops::Range;

use penstock_revision::{Listed, Version};
use percent_encoding::{percent_decode_str, utf8_percent_encode};
use reqwest::header::HeaderValue;
use serde::{Deserialize, Serialize};

use crate::OriginError;
use crate::limits::FAULT_CHARACTERS_MAX;
use crate::transport::{PATH, VALUE};

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    /// A file, or an empty folder.
    File(File),
    /// What went wrong; nothing comes after it.
    Fault(Fault),
    /// All files were listed.
    End,
}

/// A file as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    key: String,
    bytes: u64,
    modified_unix_nanos: i64,
    /// None for an empty folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

/// What went wrong, in words for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    kind: Kind,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Unreachable,
    Denied,
    NotFound,
    Drifted,
    Invalid,
    Other,
}

impl Line {
    /// `None` when it is none.
    pub fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// Appends it with its end.
    pub fn write(&self, to: &mut Vec<u8>) {
        // Serialising our own types into memory cannot fail.
        let _ = serde_json::to_writer(&mut *to, self);
        to.push(b'\n');
    }
}

impl From<Listed> for File {
    fn from(listed: Listed) -> Self {
        let Listed {
            key,
            bytes,
            modified_unix_nanos,
            version,
        } = listed;
        Self {
            key,
            bytes,
            modified_unix_nanos,
            version: match version {
                Version::ETag(tag) => Some(tag),
                Version::None | Version::Modified(_) | Version::Id(_) => None,
            },
        }
    }
}

impl From<File> for Listed {
    fn from(file: File) -> Self {
        let File {
            key,
            bytes,
            modified_unix_nanos,
            version,
        } = file;
        Self {
            key,
            bytes,
            modified_unix_nanos,
            version: version.map_or(Version::None, Version::ETag),
        }
    }
}

impl From<OriginError> for Fault {
    fn from(error: OriginError) -> Self {
        let (kind, text) = match error {
            OriginError::Unreachable(text) => (Kind::Unreachable, text),
            OriginError::Denied(text) => (Kind::Denied, text),
            OriginError::NotFound(text) => (Kind::NotFound, text),
            OriginError::Drifted(text) => (Kind::Drifted, text),
            OriginError::Invalid(text) => (Kind::Invalid, text),
            // None of the last two is anything that a folder says.
            OriginError::Throttled { text, wait: _ } | OriginError::NotAllowed(text) | OriginError::Other(text) => {
                (Kind::Other, text)
            }
        };
        Self { kind, text }
    }
}

impl From<Fault> for OriginError {
    fn from(Fault { kind, text }: Fault) -> Self {
        // It came over the network, and goes into a status.
        let text = text.chars().filter(|c| !c.is_control()).take(FAULT_CHARACTERS_MAX);
        let text: String = text.collect();
        match kind {
            Kind::Unreachable => Self::Unreachable(text),
            Kind::Denied => Self::Denied(text),
            Kind::NotFound => Self::NotFound(text),
            Kind::Drifted => Self::Drifted(text),
            Kind::Invalid => Self::Invalid(text),
            Kind::Other => Self::Other(text),
        }
    }
}

/// What a request wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The files of a folder.
    Listing {
        /// Relative to the volume; "" is all of it.
        folder: String,
    },
    /// A part of a file.
    Reading {
        /// Relative to the volume.
        folder: String,
        /// Relative to the folder.
        key: String,
        /// Length of the file.
        bytes: u64,
    },
}

impl Asked {
    /// From path and query of a request; `None` when it wants nothing that there is.
    pub fn of(path: &str, query: Option<&str>) -> Option<Self> {
        let decoded = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
        if let Some(folder) = path.strip_prefix("/list/") {
            return Some(Self::Listing {
                folder: decoded(folder)?,
            });
        }
        let (bytes, key) = query?.strip_prefix("bytes=")?.split_once("&key=")?;
        Some(Self::Reading {
            folder: decoded(path.strip_prefix("/read/")?)?,
            key: decoded(key)?,
            bytes: bytes.parse().ok()?,
        })
    }
}

/// Path of the listing of a folder.
pub(super) fn listing(folder: &str) -> String {
    format!("/list/{}", utf8_percent_encode(folder, PATH))
}

/// Path and query of the reading of a file.
pub(super) fn reading(folder: &str, key: &str, bytes: u64) -> String {
    let (folder, key) = (utf8_percent_encode(folder, PATH), utf8_percent_encode(key, VALUE));
    format!("/read/{folder}?bytes={bytes}&key={key}")
}

/// The header Range of bytes that are some.
pub(super) fn range(range: &Range<u64>) -> HeaderValue {
    let text = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
    // Digits only.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The range of a file of `bytes` bytes that a header Range asks for; `None` when it has no such bytes.
pub fn range_of(text: &str, bytes: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?;
    (range.start < range.end && range.end <= bytes).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_arrives_as_it_was_meant_whatever_the_names() {
        for name in ["a b", "é/%2F", "..a/..b", "q?a&b=c;d#e", "a\n\u{1}", "+", "&key=x"] {
            let listed = listing(name);
            assert_eq!(
                Asked::of(&listed, None),
                Some(Asked::Listing { folder: name.into() }),
                "{name:?}"
            );
            let read = reading(name, name, 7);
            let (path, query) = read.split_once('?').unwrap();
            let expected = Asked::Reading {
                folder: name.into(),
                key: name.into(),
                bytes: 7,
            };
            assert_eq!(Asked::of(path, Some(query)), Some(expected), "{name:?}");
        }
        for (path, query) in [
            ("/", None),
            ("/list", None),
            ("/list/%ff", None),
            ("/read/a", None),
            ("/read/a", Some("key=b")),
            ("/read/a", Some("bytes=-1&key=b")),
            ("/write/a", Some("bytes=1&key=b")),
        ] {
            assert_eq!(Asked::of(path, query), None, "{path} {query:?}");
        }
    }

    #[test]
    fn only_a_range_that_the_file_has_is_one() {
        for (text, expected) in [
            ("bytes=0-9", Some(0..10)),
            ("bytes=9-9", Some(9..10)),
            ("bytes=0-10", None),
            ("bytes=5-4", None),
            ("bytes=5-", None),
            ("bytes=-5", None),
            ("bytes=0-18446744073709551615", None),
            ("bytes=0-1,3-4", None),
            ("", None),
        ] {
            assert_eq!(range_of(text, 10), expected, "{text}");
        }
    }

    #[test]
    fn lines_come_back_as_they_were_and_no_other_text_is_one() {
        let file = Listed {
            key: "a\nb\"é".into(),
            bytes: u64::MAX,
            modified_unix_nanos: -1,
            version: Version::ETag("1-2".into()),
        };
        let empty = Listed {
            key: "empty/".into(),
            bytes: 0,
            modified_unix_nanos: 0,
            version: Version::None,
        };
        for listed in [file, empty] {
            let mut text = Vec::new();
            Line::File(listed.clone().into()).write(&mut text);
            assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
            let Some(Line::File(read)) = Line::read(&text) else {
                panic!("{}", String::from_utf8_lossy(&text));
            };
            assert_eq!(Listed::from(read), listed);
        }
        for text in ["", "{}", "null", "{\"end\"", "{\"file\":{\"key\":\"a\"}}", "<html>"] {
            assert_eq!(Line::read(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_fault_is_the_error_that_it_was_without_what_no_text_may_hold() {
        let said = OriginError::Denied("a\nb may not be read".into());
        let fault = Fault::from(said);
        assert_eq!(
            OriginError::from(fault),
            OriginError::Denied("ab may not be read".into())
        );
        let long = Fault::from(OriginError::NotFound("x".repeat(100_000)));
        assert_eq!(OriginError::from(long).to_string().len(), FAULT_CHARACTERS_MAX);
    }
}
