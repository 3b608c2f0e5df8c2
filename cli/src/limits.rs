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

/// How far the kernel reads ahead, in KiB. What is read at once is copied twice and checked once on its way, and does so in
/// the CPU's own cache: 256 KiB gave 2.35 GiB/s where 1 MiB gave 1.99. The engine reads further ahead from origins.
pub const READ_AHEAD_KIB: u32 = 256;

/// Pause before a read asks an origin again that did not answer the engine's own attempts.
pub const READ_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Capacity of the cache of `penstock cat` beside a running mount, which has the dataset's own: enough for what is
/// fetched ahead.
pub const CAT_BESIDE_A_MOUNT_BYTES: u64 = 256 << 20;

/// How long a busy unmount is tried again before the person hears of it: the last descriptors of a reader that ends are
/// closed a moment after it.
pub const UNMOUNT_PATIENCE: Duration = Duration::from_millis(500);

/// How long the kernel may hold the connection after the image is unmounted: it waits for read-ahead that is on its way
/// from an origin.
pub const RELEASE_MAX: Duration = Duration::from_secs(30);

/// Pause between two looks whether somebody has aborted the connection.
pub const ENDED_LOOK: Duration = Duration::from_millis(500);

/// Pause between two looks whether it still does; it is over in a moment.
pub const RELEASE_PAUSE: Duration = Duration::from_millis(10);

/// How long a csi container may take to answer `penstock doctor`. It asks no file system.
pub const DOCTOR_DEADLINE: Duration = Duration::from_secs(5);

/// How long a cache node may take to be reached: within a cluster a connection takes milliseconds, and a NetworkPolicy that is in
/// the way says nothing at all.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// How often a cache node that works on an answer is asked whether it is there, and how long it may take to say so.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long a cache node may take to answer what it has: it opens every stripe of a folder, on a hard disk 50 in a second, and a
/// TiB has 16,000.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(600);

/// Answers of one cache node about one file: each has up to 4096 parts. A file has more only where each second block of 4 KiB of a
/// GiB is cached.
pub const EXPLAIN_ANSWERS_MAX: usize = 64;

/// Parts of a file that are shown to a person: one screen.
pub const PARTS_SHOWN_MAX: usize = 40;

/// Datasets that are named to who asked for one that is not there.
pub const DATASETS_NAMED_MAX: usize = 20;
