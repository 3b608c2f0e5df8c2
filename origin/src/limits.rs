//! Every bound of the clients of origins, with its reason.

use std::time::Duration;

/// An origin that sends nothing for this long is given up for this attempt.
pub const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Connecting takes longer than this only when nobody is there.
pub const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Idle connections to origins are closed before the server does it: 20 s is the shortest that servers here use.
pub const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(15);

/// Longest page of a listing: 1,000 keys of 1,024 bytes, each three characters in a URL, and some hundred bytes around each.
pub const LISTING_PAGE_BYTES_MAX: usize = 16 << 20;

/// Ranges of keys of a bucket that are listed at the same time: with pages of 1,000 keys that take 50 ms, a million keys take seven
/// seconds, and a store hardly notices.
pub const LISTING_RANGES_MAX: usize = 8;

/// Pages of a listing for each further range of keys. A range costs a request more than the fewest, so that these stay below 1.1
/// times the fewest.
pub const LISTING_PAGES_BEFORE_SPLIT: usize = 12;

/// Questions to a web server about its files at the same time: as many as a few browsers have.
pub const HTTP_QUESTIONS_MAX: usize = 16;

/// Folders within folders of a web server: deeper than people make them, and soon reached where one leads back to one above it.
pub const HTTP_DEPTH_MAX: usize = 32;

/// Files of a web server in what is listed at a time: as many as other origins have in a page.
pub const HTTP_PAGE_FILES: usize = 1000;

/// Longest list of files with checksums: a quarter of a million lines of 128 bytes, of which a SHA-256 has 64.
pub const MANIFEST_BYTES_MAX: u64 = 32 << 20;

/// Files in one: each is a question to the server, and with answers in 100 ms so many take half an hour. In memory the largest list
/// takes some 90 MB.
pub const MANIFEST_FILES_MAX: usize = 250_000;

/// Lists that a process has in memory at a time, from its first byte until all its files are listed: a Dataset may have 16 of them, which
/// whoever writes it chooses, and a cache node plans for a GiB.
pub const MANIFESTS_AT_ONCE: usize = 1;

/// Longest line of one: a path of 4,096 bytes, each written as two, and the digits.
pub const MANIFEST_LINE_BYTES_MAX: usize = 16 << 10;

/// A file that changed within the second of the answer may change again within it, and have the same time of its last change: it is asked
/// for again after the second.
pub const JUST_CHANGED_PAUSE: Duration = Duration::from_secs(1);

/// How often a file may have changed in just that second: one that is being written, or a server that calls the present the last change
/// of what it makes for each request.
pub const JUST_CHANGED_MAX: usize = 3;

/// An answer of a web server with so few bytes leaves it in one go: with its head it fits into the ten packets that may be sent before
/// the first is acknowledged (RFC 6928), so nobody who reads slowly stretches the moment between the look at the file and its bytes.
pub const AT_ONCE_BYTES_MAX: u64 = 8 << 10;

/// Bytes of a larger one that are held back until the file was looked at again: as many as are stored as one at the most. A look for each
/// MiB costs a static server nothing.
pub const HELD_BACK_BYTES_MAX: usize = 1 << 20;

/// Pieces of so many bytes at the most are copied together while they are held back: of a server that sends single bytes there would be a
/// million, and larger ones are at most 512.
pub const COPIED_PIECE_BYTES_MAX: usize = 2 << 10;

/// Files of a folder in what is listed at a time.
pub const FOLDER_PAGE_FILES: usize = 1000;

/// Bytes of a file that are read at a time: enough that a change of threads does not count, little enough to be sent on soon.
pub const FOLDER_PIECE_BYTES: u64 = 512 << 10;

/// Objects of a page that first contact tries to read when they change under its hands, are archived, or may not be read: what is wrong
/// with all of these, over the whole page, is wrong with the source.
pub const CONTACT_OBJECTS_MAX: usize = 8;

/// A file of a repository that may come whole where a part was asked for: git has no larger ones on the hub, which wants what is
/// over 10 MB elsewhere.
pub const WHOLE_FILE_BYTES_MAX: u64 = 16 << 20;

/// Addresses to which an answer leads one after the other: two are usual, from a repository's old name to its new one and on to
/// the storage.
pub const REDIRECTS_MAX: usize = 5;

/// Commits of a repository that are tried for a file: the newest, and some for pods that read older revisions.
pub const COMMITS_MAX: usize = 4;

/// A revision of a repository is not looked up again so soon after the last time because a file was not there: the hub counts
/// questions.
pub const LOOK_UP_PAUSE: Duration = Duration::from_secs(10);

/// How long what the hub said about where a file lies is used again: its signed addresses are good for an hour.
pub const LEAD_AGE_MAX: Duration = Duration::from_secs(20 * 60);

/// Files for which it is remembered, some KiB each: more than are read at the same time.
pub const LEADS_MAX: usize = 1000;

/// Folders of an HDFS that are listed at the same time: a NameNode answers everybody from one lock.
pub const HDFS_LISTINGS_MAX: usize = 8;

/// Files of an HDFS in what is listed at a time: as many as NameNodes send.
pub const HDFS_PAGE_FILES: usize = 1000;

/// A DataNode that sends nothing for this long is left for another one that has the block: three are usual, and all should be tried
/// before the origin counts as silent.
pub const DATA_NODE_SILENCE_MAX: Duration = Duration::from_secs(5);

/// Files of an HDFS for which is remembered where their blocks lie, up to a MiB for one of a TiB.
pub const OPEN_FILES_MAX: usize = 32;

/// How long: blocks are moved from one DataNode to another now and then.
pub const OPEN_FILE_AGE_MAX: Duration = Duration::from_secs(60);

/// Ids of old versions that are remembered of a bucket, some hundred bytes each: more objects are hardly overwritten under pods that
/// read them.
pub const VERSIONS_KNOWN_MAX: usize = 10_000;

/// How long it is believed that a bucket keeps no old version of an object: each read of one that changed would look for it again, in
/// lists that cost more than a read. Who switches versioning on, or gives the right to it, waits so long.
pub const NO_VERSION_AGE_MAX: Duration = Duration::from_secs(60);

/// Patience with what gives tokens: shorter than that of who waits for a read, so that a token that is still good is used.
pub const TOKEN_SILENCE_MAX: Duration = Duration::from_secs(5);

/// What is read of an answer that says what is wrong.
pub const ERROR_BODY_BYTES_MAX: usize = 64 << 10;

/// An object of at most this many bytes is held back until the origin's checksum of it is compared: what is fetched as one.
pub const CHECKED_OBJECT_BYTES_MAX: u64 = penstock_protocol::geometry::PAGE_BYTES;

/// Idle connections that are kept to each server: as many as a cache node has requests under way.
pub const IDLE_CONNECTIONS_MAX: usize = 256;

/// Longest answer that has a token in it: those of clouds have a few KiB.
pub const TOKEN_ANSWER_BYTES_MAX: usize = 64 << 10;

/// For how long a token is taken to be good of which nobody says it: RFC 6749 recommends that it be said, and all clouds do.
pub const TOKEN_LIFETIME_UNSAID: Duration = Duration::from_secs(300);

/// Longest time for which a token is believed to be good, whatever is said: Azure's longest.
pub const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(28 * 3600);

/// A token that is due and cannot be renewed is used on while it is good; this long is waited between tries, so that readers do not
/// wait for a server that is away, and the last tenth of an hour has some.
pub const TOKEN_RETRY: Duration = Duration::from_secs(30);

/// For how long a token is good that is made for Google Cloud Storage: the longest that it accepts.
pub const GCS_TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// For how long what a limit allows is saved while nobody asks: with less, pieces of bodies that come together would wait for
/// nothing; with more, an origin would feel it.
pub const LIMIT_SAVED_MAX: Duration = Duration::from_secs(1);

/// Longest page of a listing of Azure: 5,000 names of 1,024 characters, each nine characters in a URL, and a KiB around each.
pub const AZURE_LISTING_PAGE_BYTES_MAX: usize = 56 << 20;

/// Longest line of what the reader of a claim says: a path of 4,096 bytes, each six characters in JSON, and some hundred around it.
pub const CLAIM_LINE_BYTES_MAX: usize = 32 << 10;

/// Files of a claim in what is listed at a time: as many as the reader looks at before it says so.
pub const CLAIM_PAGE_FILES: usize = FOLDER_PAGE_FILES;

/// Characters that are taken over of what the reader of a claim says is wrong: a status of the API takes 2,000.
pub const FAULT_CHARACTERS_MAX: usize = 1500;

/// A KDC that has not answered by then is left for the next one. It is sooner where a NameNode would count as silent before all were
/// asked: they share what is left of the patience with it.
pub const KDC_SILENCE_MAX: Duration = Duration::from_secs(2);

/// Longest answer of a KDC. A ticket of Active Directory has the groups of its user in it, at most 64 KiB.
pub const KDC_ANSWER_BYTES_MAX: usize = 128 << 10;

/// How often KDCs may send on to those of another realm for one service: forests are seldom that deep.
pub const REFERRALS_MAX: usize = 5;

/// Longest message about who speaks; a ticket is in it.
pub const SASL_FRAME_BYTES_MAX: usize = 256 << 10;

/// Longest message of a NameNode with Kerberos; others are Hadoop's own limit (`ipc.maximum.response.length`).
pub const RPC_FRAME_BYTES_MAX: usize = 128 << 20;

/// How much of what is asked a NameNode with Kerberos is sent as one; a request has some hundred bytes.
pub const RELAY_PIECE_BYTES: usize = 16 << 10;
