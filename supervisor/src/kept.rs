//! What is kept for the worker. Pure: descriptors are whatever `D` is.

use std::collections::BTreeMap;

use crate::letter::{Entry, EntryId, Letter};

/// The kept entries.
#[derive(Clone, Debug)]
pub struct Kept<D>(BTreeMap<EntryId, (Vec<u8>, D)>);

impl<D> Default for Kept<D> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<D> Kept<D> {
    /// Does what a letter of the worker asks for.
    pub fn note(&mut self, letter: Letter, descriptors: D) {
        match letter {
            Letter::Keep(id, state) => drop(self.0.insert(id, (state, descriptors))),
            Letter::Forget(id) => drop(self.0.remove(&id)),
            // Nothing to keep.
            Letter::Alive | Letter::All => {}
        }
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = Entry<&D>> {
        self.0.iter().map(|(id, (state, descriptors))| Entry {
            id: *id,
            state: state.clone(),
            descriptors,
        })
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_about_an_entry_counts() {
        let mut kept = Kept::default();
        kept.note(Letter::Keep([1; 16], b"old".to_vec()), "first");
        kept.note(Letter::Keep([2; 16], Vec::new()), "second");
        kept.note(Letter::Keep([1; 16], b"new".to_vec()), "third");
        kept.note(Letter::Forget([2; 16]), "");
        kept.note(Letter::Forget([3; 16]), "");
        let entries: Vec<_> = kept.entries().collect();
        let expected = Entry {
            id: [1; 16],
            state: b"new".to_vec(),
            descriptors: &"third",
        };
        assert_eq!(entries, [expected]);
    }
}
