//! The part of an origin that patterns select.
//!
//! A pattern is matched against the key below the prefix: `*` and `?` stand for anything but a slash, `**` for anything, `[a-z]` for one
//! of these, `{a,b}` for either. One without a slash is one for names, in whatever folder. An object is selected when it matches one of
//! the patterns to include, or when there are none, and none of those to exclude. Objects keep their addresses when patterns change.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use penstock_revision::ObjectVersion;

use crate::{Body, Origin, OriginError, Pages};

/// Patterns, and what they select of.
pub struct Selected {
    origin: Arc<dyn Origin>,
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Selected {
    /// The part of `origin`; itself when there are no patterns.
    ///
    /// # Errors
    /// When a pattern is none.
    pub fn of(origin: Arc<dyn Origin>, include: &[String], exclude: &[String]) -> Result<Arc<dyn Origin>, OriginError> {
        if include.is_empty() && exclude.is_empty() {
            return Ok(origin);
        }
        let place = origin.place();
        Ok(Arc::new(Self {
            include: (!include.is_empty()).then(|| globs(include, &place)).transpose()?,
            exclude: globs(exclude, &place)?,
            origin,
        }))
    }

    fn selected<'a>(&'a self, pages: Pages<'a>) -> Pages<'a> {
        let pages = pages.map_ok(|mut page| {
            page.retain(|listed| self.selects(&listed.key));
            page
        });
        pages.boxed()
    }

    fn selects(&self, key: &str) -> bool {
        // A marker of a folder is selected as the folder is named.
        let key = key.strip_suffix('/').unwrap_or(key);
        self.include.as_ref().is_none_or(|include| include.is_match(key)) && !self.exclude.is_match(key)
    }
}

/// What any of the patterns matches.
pub(super) fn globs(patterns: &[String], place: &str) -> Result<GlobSet, OriginError> {
    let mut set = GlobSetBuilder::new();
    let invalid = |pattern: &str, error: globset::Error| {
        OriginError::Invalid(format!(
            "{place}: {pattern:?} is no pattern ({}); correct it",
            error.kind()
        ))
    };
    for pattern in patterns {
        let anywhere = format!("**/{pattern}");
        let text = if pattern.contains('/') {
            pattern.trim_start_matches('/')
        } else {
            &anywhere
        };
        let glob = GlobBuilder::new(text)
            .literal_separator(true)
            .backslash_escape(true)
            .build();
        set.add(glob.map_err(|error| invalid(pattern, error))?);
    }
    set.build().map_err(|error| invalid(&patterns.join(" "), error))
}

#[async_trait]
impl Origin for Selected {
    fn identity(&self) -> String {
        self.origin.identity()
    }

    fn place(&self) -> String {
        self.origin.place()
    }

    fn is_a_cache(&self) -> bool {
        self.origin.is_a_cache()
    }

    fn list(&self) -> Pages<'_> {
        self.selected(self.origin.list())
    }

    fn list_below(&self, start: &str) -> Option<Pages<'_>> {
        let pages = self.origin.list_below(start)?;
        Some(self.selected(pages))
    }

    async fn read(&self, object: &ObjectVersion, bytes: u64, range: Range<u64>) -> Result<Body, OriginError> {
        self.origin.read(object, bytes, range).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeOrigin;

    const KEYS: [&str; 8] = [
        "README",
        "a.parquet",
        "raw/b.parquet",
        "raw/deep/c.parquet",
        "raw/deep/.c.parquet.crc",
        "raw/_SUCCESS",
        "tmp/x.parquet",
        "raw/d.csv",
    ];

    async fn selected(include: &[&str], exclude: &[&str]) -> Result<Vec<String>, OriginError> {
        let fake = FakeOrigin::default();
        for key in KEYS {
            fake.put(key, vec![1]);
        }
        let owned = |patterns: &[&str]| -> Vec<String> { patterns.iter().map(|text| (*text).to_owned()).collect() };
        let origin = Selected::of(Arc::new(fake), &owned(include), &owned(exclude))?;
        let mut keys: Vec<_> = origin.list_all().await?.into_iter().map(|listed| listed.key).collect();
        keys.sort();
        Ok(keys)
    }

    #[tokio::test]
    async fn patterns_select_names_anywhere_and_paths_from_the_top() {
        let mut all = KEYS.to_vec();
        all.sort_unstable();
        for (include, exclude, expected) in [
            (vec![], vec![], all.clone()),
            (
                vec!["*.parquet"],
                vec!["tmp/**"],
                vec!["a.parquet", "raw/b.parquet", "raw/deep/c.parquet"],
            ),
            (
                vec!["raw/*"],
                vec![],
                vec!["raw/_SUCCESS", "raw/b.parquet", "raw/d.csv"],
            ),
            (
                vec!["/raw/**"],
                vec![".*", "_*"],
                vec!["raw/b.parquet", "raw/d.csv", "raw/deep/c.parquet"],
            ),
            (vec!["raw/{b,d}.*"], vec![], vec!["raw/b.parquet", "raw/d.csv"]),
            (vec!["**/deep/**"], vec!["*.crc"], vec!["raw/deep/c.parquet"]),
            (vec!["[A-Z]*"], vec![], vec!["README"]),
            (vec!["nothing"], vec![], vec![]),
        ] {
            assert_eq!(
                selected(&include, &exclude).await.unwrap(),
                expected,
                "{include:?} without {exclude:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_pattern_that_is_none_is_said() {
        let error = selected(&["a[b"], &[]).await.unwrap_err();
        assert!(
            matches!(&error, OriginError::Invalid(text) if text.contains("\"a[b\" is no pattern")),
            "{error}"
        );
    }
}
