//! Every bound of the command line tool, each with its reason.

use std::time::Duration;

/// How long the person waits between two attempts to unmount a folder that is in use: soon enough to feel at once.
pub const UNMOUNT_RETRY: Duration = Duration::from_millis(250);

/// How many users of a busy mount are named: one screen.
pub const USERS_NAMED_MAX: usize = 8;

/// How long `penstock status` waits for the process that serves a mount. It answers from memory.
pub const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest answer of a running mount, in bytes. It is a few hundred; a file that is no socket of ours must not fill memory.
pub const STATUS_BYTES_MAX: u64 = 1 << 20;

/// Largest dataset file, in bytes: the API server takes no object above 1.5 MiB, and a file has a few.
pub const DATASET_FILE_BYTES_MAX: u64 = 16 << 20;

/// Bytes that `penstock cat` asks for at once: four of the largest ranges of the engine, so that it reads ahead.
pub const CAT_BYTES: u64 = 4 << 20;
