//! Every bound of the cache node, with its reason.

use std::time::Duration;

pub use penstock_origin::limits::SILENCE_MAX as ORIGIN_SILENCE_MAX;

/// Bytes of the largest piece that is fetched, stored and waited for as one: the page.
pub const UNIT_BYTES_MAX: u64 = penstock_protocol::geometry::PAGE_BYTES;

/// An object of at most this many bytes is fetched whole on first touch: whoever reads a part of a small file reads the
/// rest, and one request costs more than a megabyte.
pub const WHOLE_OBJECT_BYTES_MAX: u64 = UNIT_BYTES_MAX;

/// What a random read of a large object fetches: aligned pieces of this size. Parquet footers and index pages lie within
/// it, and a request to an object store (10 to 100 ms) costs as much as it transfers in that time.
pub const RANDOM_READ_BYTES: u64 = 128 << 10;

/// First window of a sequential read of a large object; it doubles with each one that was used.
pub const SEQUENTIAL_WINDOW_BYTES_MIN: u64 = 2 << 20;

/// Largest window: at 100 MB/s a connection it hides 160 ms of latency.
pub const SEQUENTIAL_WINDOW_BYTES_MAX: u64 = 16 << 20;

/// How far from the expected place a read still counts as going on: the kernel sends its read-ahead out of order.
pub const SEQUENTIAL_SLACK_BYTES: u64 = 4 << 20;

/// Large objects whose readers are followed at the same time; beyond it all are forgotten and reads begin with the smallest
/// window again.
pub const FOLLOWED_OBJECTS_MAX: usize = 4096;

/// Readers of one object that are followed at the same time: workers of a data loader that share one file. Beyond it the one
/// that was not heard of for the longest time is forgotten.
pub const FOLLOWED_READERS_MAX: usize = 16;

/// Requests to one source at the same time: as many misses as a mounter has on their way. S3 gives a client about 100 MB/s a
/// connection and thousands of requests a second; 64 fill 25 Gbit/s. A source that is stuck keeps no other from being read.
pub const SOURCE_REQUESTS_MAX: usize = 64;

/// Requests to all sources at the same time, however small: each has a connection.
pub const FETCHES_MAX: usize = 256;

/// Memory of a cache node, if it is not said: what a node takes that fills 25 Gbit/s from origins and to clients, with room for
/// packages and eight million objects.
pub const MEMORY_BYTES_DEFAULT: u64 = 1 << 30;

/// ... at least: four answers and eight fetches at the same time, and what the process takes itself.
pub const MEMORY_BYTES_MIN: u64 = 64 << 20;

/// Buffers of a page that are kept for the next request instead of given back.
pub const ORIGIN_BUFFERS_KEPT: usize = 64;

/// Attempts of one fetch before its readers see the error. They retry on their part, so this only bridges a short fault. A
/// request to slow down is no such attempt: see [`ORIGIN_PATIENCE`].
pub const ORIGIN_ATTEMPTS_MAX: u32 = 4;

/// First pause between attempts, doubled each time, with jitter.
pub const ORIGIN_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A fetch that got nothing for this long begins no other attempt, whatever it waits for. Longer than all attempts that fall
/// silent, 81 s; with one more silence still shorter than the 120 s that a client waits for an answer.
pub const ORIGIN_PATIENCE: Duration = Duration::from_secs(90);

/// Pause of all requests of a source that asks to slow down, doubled each time that none was answered in between, with jitter:
/// S3 spreads a prefix over more servers within minutes, and asks for "a few" pauses until then.
pub const THROTTLED_PAUSE_MIN: Duration = Duration::from_millis(100);
/// ... at most: one request each few seconds is no load, and finds out soon that more may be sent.
pub const THROTTLED_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What is believed of a Retry-After: with more, readers would see errors for the sake of a guess.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// Requests in a row that were not answered before a source is taken to be gone: one fetch alone does not decide that.
pub const BREAKER_FAILURES: u32 = ORIGIN_ATTEMPTS_MAX + 1;

/// ... within this time: five silences of one reader, 101 s, are a row; what failed before a pause in reading is none.
pub const BREAKER_ROW_MAX: Duration = Duration::from_secs(180);
/// ... and for how long nothing was answered: when a load balancer is replaced, all connections break at the same moment.
pub const BREAKER_GONE_MIN: Duration = Duration::from_secs(1);

/// How long a source that is gone is left alone before a reader's request finds out whether it is back, doubled each time it is
/// not, with jitter.
pub const BREAKER_PAUSE_MIN: Duration = Duration::from_secs(1);
/// ... at most: one request each ten seconds is no load, and readers, who wait for 300 s, lose little of that.
pub const BREAKER_PAUSE_MAX: Duration = Duration::from_secs(10);

/// A request is late after so many times the 95th percentile of its peers' times to the first byte. S3's 99.9th is about ten
/// times its median, so hardly one in a hundred of a healthy source.
pub const HEDGE_LATENESS: u32 = 3;

/// ... and not before: less is not noticed beside what a read costs anyway, and a disk that seeks is not ill.
pub const HEDGE_AFTER_MIN: Duration = Duration::from_millis(100);

/// Answers that the percentile is taken of: enough for it to mean something, few enough to follow the source within seconds.
pub const HEDGE_PEERS_MAX: usize = 128;
/// ... at least.
pub const HEDGE_PEERS_MIN: usize = 32;

/// Requests that pay for a second one: 2 % more at the most, so an origin that is slow as a whole does not get slower by it.
pub const HEDGE_REQUESTS: u32 = 50;

/// Second requests that are saved up: what one bad server of many costs within a moment.
pub const HEDGES_SAVED_MAX: u32 = 4;

/// How long after a source asked to slow down, or was gone, nothing is sent twice.
pub const HEDGE_CALM_MIN: Duration = Duration::from_secs(30);

/// A body that pauses for this long is asked for anew from where it stopped, as far as second requests are paid for. TCP gets
/// over five losses in a row within 6 s, and over three within 1.5 s.
pub const BODY_STALL_MAX: Duration = Duration::from_secs(3);

/// Fewer bytes are copied and checked: a copy costs less than the second system call that sendfile(2) needs for the header.
pub const UNREAD_BYTES_MIN: u64 = 64 << 10;

/// Stripes that are kept open in all tiers together, however much memory there is, with two descriptors each: below half of the usual
/// 20,000. Of 1 GiB of memory 992 are, for 62 GiB of data in use.
pub const OPEN_STRIPES_MAX: usize = 4096;

/// The part of the capacity that is kept free, so that what arrives finds room while old cells are evicted in the background.
/// What finds none is not cached this time; a larger part would cost as much hit ratio always.
pub const FREE_PART: u64 = 128;

/// ... and at most so much: what a fast origin brings within a second.
pub const FREE_BYTES_MAX: u64 = 1 << 30;

/// The part of the capacity that is for what only passes: windows that were fetched ahead of readers. With the part that is
/// free it takes less than 0.02 of the hit ratio.
pub const PASSING_PART: u64 = 100;

/// ... at most: the largest windows of a hundred readers.
pub const PASSING_BYTES_MAX: u64 = 2 << 30;

/// A space that nobody has read for so long gives up its place before others do: longer than an evaluation between two epochs.
pub const SHARE_IDLE_MAX: Duration = Duration::from_secs(15 * 60);

/// The part of the capacity that is fetched ahead of one reader at the most.
pub const AHEAD_PART: u64 = 128;

/// Cells that are evicted before the disk gets back what they took up, and it is looked again how much has to go.
pub const EVICTIONS_AT_ONCE: usize = 64;

/// How often the evictor looks by itself: policies hear what others left them.
pub const EVICTOR_INTERVAL: Duration = Duration::from_secs(1);

/// ... and how soon when the place of evicted cells is still being sent from.
pub const EVICTOR_PAUSE: Duration = Duration::from_millis(20);

/// Small objects of a space that are read, each once, before as many are brought ahead of their readers, four times as many, and
/// sixteen times. A subset that is chosen at random looks like an epoch; the steps bound what it can cost.
pub const WALK_READS: [u64; 3] = [64, 128, 256];

/// Objects of a walk whose reads are told apart: 32 MB of memory for a million. Reads beyond are not counted.
pub const WALK_OBJECTS_MAX: usize = 1 << 20;

/// Pause of a walk after an object could not be brought: who reads meets the same error and is told of it.
pub const WALK_FAILURE_PAUSE: Duration = Duration::from_secs(60);

/// One in so many of them may have been read before.
pub const WALK_REPEATS_MAX: u64 = 20;

/// Objects in which readers may be at the same time: reading on in one of them is no second read.
pub const WALK_LAST_READS: usize = 32;

/// What is brought is looked for in pieces of so many addresses.
pub const WALK_CHUNK_BYTES: u64 = 8 << 20;

/// Without a read for so long nobody walks any more: the time between two batches of a slow trainer.
pub const WALK_IDLE_MAX: Duration = Duration::from_secs(30);

/// Objects that are brought at the same time: half of the requests of a source; the other half is for readers.
pub const WALK_FETCHES_MAX: usize = SOURCE_REQUESTS_MAX / 2;

/// Times that a read goes back to the origin because a stored block did not match its checksum.
pub const DAMAGED_BLOCK_ATTEMPTS_MAX: u32 = 3;

/// Drifted objects of a Dataset that are remembered for the report, and as many that cannot be read; one is enough to act on, these
/// show a pattern. They stay while they are so: if others took their places, the status of the Dataset would change with each read.
pub const DRIFTS_REPORTED_MAX: usize = 16;

/// ... of all Datasets together, of which some are gone: a few hundred bytes each.
pub const DRIFTS_KEPT_MAX: usize = 1024;

/// Bytes that are kept of the key of such an object, and of why it cannot be read: all that are kept are about 1 MB, and the operator
/// takes reports of 4 MiB.
pub const DRIFT_KEY_BYTES_MAX: usize = 300;
/// See [`DRIFT_KEY_BYTES_MAX`].
pub const DRIFT_FAULT_BYTES_MAX: usize = 500;

/// What could not be read is reported for so long after somebody met it: an object may have been restored, or a right given.
pub const FAULT_AGE_SECONDS_MAX: u64 = 3600;

/// How long a peer is asked for a package before the next round.
pub const PEER_PATIENCE: Duration = Duration::from_secs(10);

/// How long the cache nodes of another Dataset are asked for something before the request counts as failed: shorter than
/// [`ORIGIN_SILENCE_MAX`], so that it is them who are named.
pub const OTHER_DATASET_PATIENCE: Duration = Duration::from_secs(8);

/// Packages of other Datasets that are kept in memory: their newest, and older ones that pods still read through. One takes 40 bytes
/// an object.
pub const OTHER_PACKAGES_MAX: usize = 8;

/// Places that are remembered to be in no revision of another Dataset that is served: 32 bytes each.
pub const OTHER_PLACES_MISSED_MAX: usize = 100_000;

/// Bytes that are asked of another Dataset's cache nodes at once: a page, as a mounter asks for.
pub const OTHER_READ_BYTES: u64 = UNIT_BYTES_MAX;

/// Objects of another Dataset that are handed to a build at once.
pub const LISTED_PAGE_OBJECTS: usize = 10_000;

/// Pause between two rounds of looking for announced packages that no peer had.
pub const MISSING_PACKAGES_INTERVAL: Duration = Duration::from_secs(10);

/// Missing packages that are looked for at the same time: one whose peers are away does not hold up the others.
pub const PACKAGE_FETCHES_MAX: usize = 4;

/// A package that was built or kept and is not announced yet is spared for this long: a commit follows its build within
/// seconds, or within minutes when the operator is replaced in between.
pub const UNANNOUNCED_PACKAGE_AGE_MAX: Duration = Duration::from_secs(15 * 60);

/// ... and only this many: builds whose commits fail again and again must not fill the disk.
pub const UNANNOUNCED_PACKAGES_MAX: usize = 16;

/// Requests of one bulk connection that are worked on at the same time: enough for a mounter's sessions on a busy node,
/// most of them waiting for an origin.
pub const CONNECTION_REQUESTS_MAX: usize = 64;

/// The part of all answers' buffers that one connection has at the most: what it has asked for is sent one after the other.
pub const CONNECTION_ANSWERS_PART: usize = 4;

/// Requests of all bulk connections that are worked on at the same time, beside one of each: 4 KiB each while they wait.
pub const REQUESTS_MAX: usize = 16_384;

/// Units of fewer bytes arrive in a buffer of their size; to touch the pages of a larger one for the first time costs more than
/// to have one of a page at hand.
pub const SMALL_UNIT_BYTES_MAX: u64 = 128 << 10;

/// Mounters of this node that are connected at the same time: one, two while it is replaced, and room for what has not
/// noticed its end. Each has a thread.
pub const NEIGHBOURS_MAX: usize = 8;

/// Ranges of one letter that says what was read: more than a mounter says at once.
pub const USED_RANGES_MAX: usize = 256;

/// Pause after a connection could not be accepted, which stays in the queue: until descriptors are free.
pub const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// How long a mounter of this node may leave an answer in its socket before it is cut off.
pub const NEIGHBOUR_PATIENCE: Duration = Duration::from_secs(5);

/// How long a request waits for a buffer before the client is told to go elsewhere.
pub const BUFFER_WAIT_MAX: Duration = Duration::from_secs(2);

/// How long a peer may take to greet, and to say the first thing of a connection that needs a greeting: round trips and two
/// signatures, on a node that is very busy.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Greetings at the same time; others wait for their turn. Whoever greets has proven nothing yet and takes up to 64 KiB.
pub const HANDSHAKES_MAX: usize = 256;

/// A peer that takes nothing of an answer for this long is cut off.
pub const PEER_SILENCE_MAX: Duration = Duration::from_secs(30);

/// ... and one that has taken less than [`PRESSED_BYTES_PER_SECOND`] of an answer for this long while others wait for its buffers.
pub const ANSWER_PRESSED_MAX: Duration = Duration::from_secs(5);
/// 2 Mbit/s: what a reader has beside two hundred others on a network of 0.5 Gbit/s.
pub const PRESSED_BYTES_PER_SECOND: u64 = 256 << 10;

/// How often it is looked whether others wait.
pub const PRESSURE_LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Pause between two reports to the operator at the least.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes by which a space moves before a report tells of it: each report wakes the objects of the pool.
pub const REPORT_STEP_BYTES: u64 = 1 << 20;

/// After so many intervals without a change a report tells also of less than a step. A reader that pauses for less, as
/// between two batches, costs no more reports than one that does not.
pub const REPORT_REST_LOOKS: u32 = 5;

/// How long a revision counts as in use after a mounter said so, or somebody read it: a mounter says it once a minute, and is away
/// for some seconds when it is replaced.
pub const USE_VALID: Duration = Duration::from_secs(5 * penstock_cache_client::limits::USE_TOLD_INTERVAL.as_secs());

/// How long a node that was asked to end goes on with requests that it has begun.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// The part of the room that Datasets cannot be promised, by pins and guarantees: all others need some to be read at all.
pub const UNPROMISED_PART: u64 = 10;

/// How often policies are told what they may hold, at the most: it looks at all of them together.
pub const RESIZE_INTERVAL: Duration = Duration::from_millis(10);

/// Cells that wait to be brought into a tier. What is read again and again is noted down again.
pub const COMING_CELLS_MAX: usize = 256;

/// Tiers of a node: memory, two kinds of disks, and one to replace another.
pub const TIERS_MAX: usize = 4;

/// Datasets of one answer that lists them: with names as long as Kubernetes lets them be it stays below the 4 MiB that a client of
/// gRPC takes, beside a ring of as many members as there may be.
pub const DATASETS_LISTED_MAX: usize = 1024;

/// Parts of a file of one answer that explains it: below a MiB.
pub const RANGES_EXPLAINED_MAX: usize = 4096;

/// Stripes that are looked at for one such answer: 68 KiB are read of each in each tier, a second or two on a hard disk.
pub const STRIPES_EXPLAINED_MAX: usize = 256;

/// People who are answered at the same time, but for the one who has blocks compared: each reads disks, with one request at a time,
/// and has the names of a Dataset on a disk meanwhile, 1.3 GB for ten million files.
pub const INSPECTIONS_MAX: usize = 2;

/// Files and folders that a person who looks at a tree is told in one message: with long names some MB, which gRPC still takes.
pub const ENTRIES_AT_ONCE_MAX: usize = 1000;

/// How long who looks at a tree may take none of it: it is in memory meanwhile, and nobody else looks. A person who reads the first
/// page of it has that long.
pub const ENTRIES_PATIENCE: Duration = Duration::from_secs(60);

/// How often whoever has blocks compared hears how far it is.
pub const VERIFY_INTERVAL: Duration = Duration::from_secs(1);

/// Names that are told to who asked for a path that is not there.
pub const NAMES_TOLD_MAX: usize = 5;

/// Rules of a Dataset, as in its schema: each has a policy of its own in every space.
pub const RULES_MAX: usize = 32;

/// What is compared with its checksums in the background, in each tier: a TiB in 18 hours, and a tenth of what a hard disk does.
pub const SCRUB_BYTES_PER_SECOND: u64 = 16 << 20;

/// From the beginning of one pass to that of the next, if it is not longer itself.
pub const SCRUB_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Pages of listings that wait to be gathered, 1,000 objects of some 200 bytes each: enough that sources need not wait for a run to be
/// sorted, little beside what is gathered.
pub const LISTED_PAGES_MAX: usize = 32;
/// Parts of a source that are listed at the same time: as many as ranges of a whole listing.
pub const LISTED_BELOW_AT_ONCE: usize = 8;
