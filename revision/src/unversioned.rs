//! Files of which nothing shows that they change, counted.

use crate::object::Version;
use crate::tree::cut;

/// Those of a source.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Unversioned {
    /// Identity of the source.
    pub source: String,
    /// How many; empty ones have nothing that could change unnoticed.
    pub files: u64,
    /// The key of the first in the tree.
    pub example: String,
}

/// Counts an object that has bytes.
pub(crate) fn count(all: &mut Vec<Unversioned>, source: &str, version: &Version, key: &str) {
    if !version.is_unversioned() {
        return;
    }
    if let Some(known) = all.iter_mut().find(|known| known.source == source) {
        known.files += 1;
    } else {
        all.push(Unversioned {
            source: source.to_owned(),
            files: 1,
            example: cut(key),
        });
    }
}
