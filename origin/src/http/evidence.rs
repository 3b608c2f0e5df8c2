//! What shows that a file is the one that was listed, and how that is written as its version. Pure.
//!
//! | the server says | the manifest | version |
//! |---|---|---|
//! | a strong ETag | | the ETag |
//! | when it changed | | that time |
//! | either of them | a checksum | the id `sha256:HEX etag:TAG` or `sha256:HEX modified:UNIX_NANOS` |
//! | nothing | a checksum of a small file | the id `sha256:HEX` |
//! | nothing | ... of one that is too large to be compared | the id `unversioned sha256:HEX` |
//! | nothing | | the id `unversioned` |
//!
//! The last two are used of files only that somebody allowed by name.

use penstock_revision::Version;
use penstock_revision::object::UNVERSIONED;

use crate::limits::CHECKED_OBJECT_BYTES_MAX;
use crate::sum::Sum;

/// All that is known of a file but its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Evidence {
    pub(super) said: Said,
    /// From the manifest.
    pub(super) sum: Option<Sum>,
}

/// What a server says of the version of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A strong ETag, without its quotes.
    Tag(String),
    /// When it changed last, nanoseconds since 1970.
    Modified(i64),
    Nothing,
}

/// Whether a file of so many bytes is compared with its checksum.
pub(super) fn is_compared(bytes: u64) -> bool {
    bytes <= CHECKED_OBJECT_BYTES_MAX
}

impl Evidence {
    /// Whether a change of a file of so many bytes shows, also when it keeps its length.
    pub(super) fn shows_changes(&self, bytes: u64) -> bool {
        self.said != Said::Nothing || self.sum.is_some() && is_compared(bytes)
    }

    /// The version of a file of so many bytes.
    pub(super) fn version(&self, bytes: u64) -> Version {
        let words = match (&self.said, &self.sum) {
            (Said::Tag(tag), None) => return Version::ETag(tag.clone()),
            (Said::Modified(unix_nanos), None) => return Version::Modified(*unix_nanos),
            (Said::Nothing, None) => UNVERSIONED.to_owned(),
            (Said::Tag(tag), Some(sum)) => format!("{sum} etag:{tag}"),
            (Said::Modified(unix_nanos), Some(sum)) => format!("{sum} modified:{unix_nanos}"),
            (Said::Nothing, Some(sum)) if is_compared(bytes) => sum.to_string(),
            (Said::Nothing, Some(sum)) => format!("{UNVERSIONED} {sum}"),
        };
        Version::Id(words)
    }

    /// What a version was made of; `None` when it is none of these.
    pub(super) fn of(version: &Version) -> Option<Self> {
        let alone = |said| Some(Self { said, sum: None });
        let id = match version {
            Version::None => return None,
            Version::ETag(tag) => return alone(Said::Tag(tag.clone())),
            Version::Modified(unix_nanos) => return alone(Said::Modified(*unix_nanos)),
            Version::Id(id) if id == UNVERSIONED => return alone(Said::Nothing),
            Version::Id(id) => id,
        };
        // A tag may have blanks in it.
        let (first, rest) = id
            .split_once(' ')
            .map_or((id.as_str(), None), |(first, rest)| (first, Some(rest)));
        let (said, sum) = match rest {
            None => (Said::Nothing, first),
            Some(rest) if first == UNVERSIONED => (Said::Nothing, rest),
            Some(rest) => match rest.split_once(':')? {
                ("etag", tag) => (Said::Tag(tag.to_owned()), first),
                ("modified", unix_nanos) => (Said::Modified(unix_nanos.parse().ok()?), first),
                _ => return None,
            },
        };
        let sum = Some(Sum::read_named(sum)?);
        Some(Self { said, sum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_version_says_all_that_is_known_and_no_two_say_the_same() {
        let sums = [
            None,
            Sum::read(SUM),
            Sum::read(&SUM.replace('b', "c")),
            Sum::read(&SUM[..32]),
        ];
        let said = [
            Said::Tag("a b:c".into()),
            Said::Tag(String::new()),
            Said::Tag(format!("sha256:{SUM}")),
            Said::Modified(-1),
            Said::Modified(1_700_000_000_000_000_000),
            Said::Nothing,
        ];
        for bytes in [1, CHECKED_OBJECT_BYTES_MAX, CHECKED_OBJECT_BYTES_MAX + 1] {
            let mut versions = Vec::new();
            for (sum, said) in sums.iter().flat_map(|sum| said.iter().map(move |said| (sum, said))) {
                let evidence = Evidence {
                    said: said.clone(),
                    sum: sum.clone(),
                };
                let version = evidence.version(bytes);
                assert_eq!(Evidence::of(&version).as_ref(), Some(&evidence), "{version:?}");
                assert_eq!(version.is_unversioned(), !evidence.shows_changes(bytes), "{version:?}");
                assert!(!versions.contains(&version), "{version:?}");
                versions.push(version);
            }
        }
    }

    #[test]
    fn what_shows_nothing_is_known_as_such() {
        let shows = |said, sum, bytes| Evidence { said, sum }.shows_changes(bytes);
        let (small, large) = (CHECKED_OBJECT_BYTES_MAX, CHECKED_OBJECT_BYTES_MAX + 1);
        assert!(!shows(Said::Nothing, None, small));
        assert!(shows(Said::Nothing, Sum::read(SUM), small));
        assert!(!shows(Said::Nothing, Sum::read(SUM), large));
        assert!(shows(Said::Modified(1), Sum::read(SUM), large));
        for id in [
            "",
            "7",
            "unversioned ",
            "unversioned sha256:7",
            "sha256:7",
            "md5:",
            "unversioned etag:a",
        ] {
            assert_eq!(Evidence::of(&Version::Id(id.into())), None, "{id:?}");
        }
        let unknown = format!("sha256:{SUM} other:a");
        assert_eq!(Evidence::of(&Version::Id(unknown)), None);
        assert_eq!(Evidence::of(&Version::None), None);
    }
}
