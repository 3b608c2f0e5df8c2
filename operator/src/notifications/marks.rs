//! What of one Dataset may have changed since it was listed, as far as somebody said so: pure.
//!
//! Each mark has a number, the newest the highest. A build carries all that are there when it begins; when it went well, marks up to
//! that number are settled, and those that came meanwhile stay for the next.

use std::collections::BTreeMap;

use penstock_protocol::control::cache_node as wire;

use crate::limits::{MARK_BYTES_MAX, MARKS_MAX};

/// What somebody said of one Dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Anything may have changed.
    All,
    /// Objects whose keys begin so.
    Keys {
        /// Of the source in the tree.
        path: String,
        /// Below the source's prefix.
        start: String,
    },
}

/// What a build has to list.
#[derive(Clone, Debug, PartialEq)]
pub enum Look {
    /// All sources.
    All,
    /// This of them.
    Below(Vec<wire::Dirty>),
}

/// The marks of one Dataset.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    last: u64,
    all: Option<u64>,
    /// Path of the source and beginning of keys, with the number of the newest that is about it.
    keys: BTreeMap<(String, String), u64>,
}

impl Marks {
    /// Adds one. There are never more than [`MARKS_MAX`]: then those of a folder become one, and at last those of a source.
    pub fn add(&mut self, mark: Mark) {
        self.last += 1;
        let (path, mut start) = match mark {
            Mark::All => {
                self.all = Some(self.last);
                return;
            }
            Mark::Keys { path, start } => (path, start),
        };
        start.truncate(start.floor_char_boundary(MARK_BYTES_MAX));
        let covers = |(other, before): &(String, String)| *other == path && start.starts_with(before.as_str());
        if let Some((_, number)) = self.keys.iter_mut().find(|(key, _)| covers(key)) {
            *number = self.last;
            return;
        }
        self.keys.insert((path, start), self.last);
        while self.keys.len() > MARKS_MAX && self.fold() {}
    }

    /// Makes of all keys their folders; false when there is nothing left to make fewer.
    fn fold(&mut self) -> bool {
        let before = std::mem::take(&mut self.keys);
        let mut is_any = false;
        for ((path, start), number) in before {
            let folder = folder(&start).to_owned();
            is_any |= folder != start;
            let newest = self.keys.entry((path, folder)).or_default();
            *newest = number.max(*newest);
        }
        self.drop_covered();
        is_any
    }

    /// Makes one of those of which one covers the other.
    fn drop_covered(&mut self) {
        let mut kept: BTreeMap<(String, String), u64> = BTreeMap::new();
        for ((path, start), number) in std::mem::take(&mut self.keys) {
            // What covers it comes before it, and only what that covers, too, in between.
            match kept.last_entry() {
                Some(mut last) if last.key().0 == path && start.starts_with(&last.key().1) => {
                    *last.get_mut() = number.max(*last.get());
                }
                _ => drop(kept.insert((path, start), number)),
            }
        }
        self.keys = kept;
    }

    /// The number of the newest.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Forgets the marks up to this number.
    pub fn settle(&mut self, number: u64) {
        self.all = self.all.filter(|of_all| *of_all > number);
        self.keys.retain(|_, of_key| *of_key > number);
    }

    /// What they ask for; `None` when there are none.
    pub fn look(&self) -> Option<Look> {
        if self.all.is_some() {
            return Some(Look::All);
        }
        let mut dirty: Vec<wire::Dirty> = Vec::new();
        for (path, start) in self.keys.keys() {
            match dirty.last_mut().filter(|last| last.path == *path) {
                Some(last) => last.keys.push(start.clone()),
                None => dirty.push(wire::Dirty {
                    path: path.clone(),
                    keys: vec![start.clone()],
                }),
            }
        }
        (!dirty.is_empty()).then_some(Look::Below(dirty))
    }
}

/// The folder of a key, with its slash; "" is the whole source.
fn folder(start: &str) -> &str {
    let inside = start.strip_suffix('/').unwrap_or(start);
    inside.rfind('/').map_or("", |end| &start[..=end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(path: &str, start: &str) -> Mark {
        Mark::Keys {
            path: path.to_owned(),
            start: start.to_owned(),
        }
    }

    fn look(marks: &Marks) -> Vec<(String, Vec<String>)> {
        match marks.look() {
            None => Vec::new(),
            Some(Look::All) => vec![("*".to_owned(), Vec::new())],
            Some(Look::Below(dirty)) => dirty.into_iter().map(|dirty| (dirty.path, dirty.keys)).collect(),
        }
    }

    fn below(path: &str, starts: &[&str]) -> (String, Vec<String>) {
        (
            path.to_owned(),
            starts.iter().map(|start| (*start).to_owned()).collect(),
        )
    }

    #[test]
    fn marks_that_come_while_a_build_runs_are_for_the_next() {
        let mut marks = Marks::default();
        assert_eq!(look(&marks), []);
        for mark in [keys("raw", "a/1"), keys("", "b/"), keys("", "b/2"), keys("raw", "a/0")] {
            marks.add(mark);
        }
        assert_eq!(look(&marks), [below("", &["b/"]), below("raw", &["a/0", "a/1"])]);
        let begun = marks.last();
        // Once more what is marked already: it changed again.
        marks.add(keys("raw", "a/1"));
        marks.add(keys("", "b/3"));
        marks.settle(begun);
        assert_eq!(look(&marks), [below("", &["b/"]), below("raw", &["a/1"])]);
        marks.settle(marks.last());
        assert_eq!(look(&marks), []);
    }

    #[test]
    fn everything_is_everything_until_it_was_looked_at() {
        let mut marks = Marks::default();
        marks.add(Mark::All);
        let begun = marks.last();
        marks.add(keys("", "a"));
        assert_eq!(look(&marks), [below("*", &[])]);
        marks.settle(begun);
        assert_eq!(look(&marks), [below("", &["a"])]);
    }

    #[test]
    fn too_many_keys_become_folders_and_too_many_folders_all_of_the_source() {
        let mut marks = Marks::default();
        for number in 0..=MARKS_MAX {
            marks.add(keys("", &format!("raw/{}/{number:04}", number % 2)));
        }
        assert_eq!(look(&marks), [below("", &["raw/0/", "raw/1/"])]);
        let begun = marks.last();
        for number in 0..MARKS_MAX {
            marks.add(keys("", &format!("{number:04}")));
        }
        assert_eq!(look(&marks), [below("", &[""])]);
        marks.settle(begun);
        assert_eq!(look(&marks), [below("", &[""])], "the newest of what became one counts");
        // Any number of sources that are folded as far as they can be.
        let mut marks = Marks::default();
        for number in 0..2 * MARKS_MAX {
            marks.add(keys(&number.to_string(), "a/b/c"));
        }
        assert!(
            look(&marks)
                .iter()
                .all(|(_, starts)| *starts == [""] || *starts == ["a/b/c"])
        );
    }

    #[test]
    fn a_key_without_end_is_cut_and_still_covers_itself() {
        let mut marks = Marks::default();
        let key = "\u{e4}".repeat(MARK_BYTES_MAX);
        marks.add(keys("", &key));
        let [(_, starts)] = look(&marks).try_into().unwrap();
        assert!(starts[0].len() <= MARK_BYTES_MAX && key.starts_with(&starts[0]));
    }
}
