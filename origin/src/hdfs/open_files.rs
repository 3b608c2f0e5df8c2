//! Where the blocks of files lie, remembered for a while: a NameNode tells it for a whole file at a time, and a file is read in many
//! ranges. It must not know whether a file is still the same.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hdfs_native::file::FileReader;

use super::name_nodes::Held;
use crate::limits::{OPEN_FILE_AGE_MAX, OPEN_FILES_MAX};

/// Those that were read last.
#[derive(Default)]
pub(super) struct OpenFiles(Mutex<VecDeque<OpenFile>>);

struct OpenFile {
    key: String,
    bytes: u64,
    version: i64,
    since: Instant,
    reader: Arc<Held<FileReader>>,
}

impl OpenFiles {
    pub(super) fn get(&self, key: &str, bytes: u64, version: i64) -> Option<Arc<Held<FileReader>>> {
        let mut files = self.lock();
        files.retain(|file| file.since.elapsed() < OPEN_FILE_AGE_MAX);
        let is_it = |file: &&OpenFile| file.key == key && file.bytes == bytes && file.version == version;
        files.iter().find(is_it).map(|file| file.reader.clone())
    }

    pub(super) fn remember(
        &self,
        key: &str,
        bytes: u64,
        version: i64,
        reader: Held<FileReader>,
    ) -> Arc<Held<FileReader>> {
        let reader = Arc::new(reader);
        let mut files = self.lock();
        files.retain(|file| file.key != key);
        files.truncate(OPEN_FILES_MAX - 1);
        files.push_front(OpenFile {
            key: key.to_owned(),
            bytes,
            version,
            since: Instant::now(),
            reader: reader.clone(),
        });
        reader
    }

    pub(super) fn forget(&self, key: &str) {
        self.lock().retain(|file| file.key != key);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<OpenFile>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
