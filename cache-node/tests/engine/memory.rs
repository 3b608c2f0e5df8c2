//! What the whole process takes of memory, however many read slowly and however much is cached.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use penstock_cache_node::memory::Budget;
use penstock_cache_node::rules::Rule;
use penstock_cache_node::{Engine, EngineConfig, TierConfig};
use penstock_origin::Origin;
use penstock_protocol::checksum::block_checksum;
use penstock_protocol::frame::{Header, Kind, Status};
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange, STRIPE_BYTES};
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_protocol::side;
use penstock_revision::{BuildOptions, Gathering, Listed, Outcome, Scratch, Version};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use crate::alone::alone;
use crate::bulk::{Server, answer, ask_by};
use crate::generated::{Generated, bytes};

const MIB: u64 = 1 << 20;
const BUDGET_BYTES: u64 = 256 * MIB;
const SLOW_READERS: usize = 10_000;
const SMALL_OBJECTS: u64 = 5_000_000;
/// Files of a revision that is looked into: an image of 70 MB.
const NAMES: u64 = 600_000;
const LOOK_BYTES_MAX: u64 = 16 * MIB;

/// Set in the process of the slow readers: the address of the server and the revision.
const READS_SLOWLY: &str = "PENSTOCK_TEST_READS_SLOWLY";

/// Bytes of this process that are in memory and of no file.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib << 10
}

fn engine(folder: &Path, budget_bytes: u64) -> Engine {
    Engine::open(config(folder, budget_bytes)).unwrap()
}

fn config(folder: &Path, budget_bytes: u64) -> EngineConfig {
    let tier = TierConfig {
        name: "ssd".into(),
        path: folder.into(),
        capacity_bytes: Some(1 << 40),
    };
    EngineConfig {
        tiers: vec![tier],
        memory: Budget::new(budget_bytes).unwrap(),
        scratch: Scratch::memory(),
    }
}

/// Ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_slow_readers_take_no_more_than_the_budget_and_others_are_not_kept_waiting() {
    let name = "memory::ten_thousand_slow_readers_take_no_more_than_the_budget_and_others_are_not_kept_waiting";
    if let Ok(whom) = std::env::var(READS_SLOWLY) {
        return read_slowly(&whom).await;
    }
    if !alone(name, 20_000) {
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let engine = engine(folder.path(), BUDGET_BYTES);
    // Of one Dataset half is cached and the origin stuck, and all read it slowly; the other is read as usual.
    let objects = [("cached".to_owned(), 64 * MIB), ("stuck".to_owned(), 64 * MIB)];
    let slow = Generated::new("slow://", objects);
    let well = Generated::new("well://", [("object".to_owned(), 64 * MIB)]);
    let (of_slow, of_well) = (
        slow.package_in(SpaceId([1; 16])).await,
        well.package_in(SpaceId([2; 16])).await,
    );
    engine.set_datasets(&[slow.dataset(&of_slow), well.dataset(&of_well)], false);
    for package in [&of_slow, &of_well] {
        let first = package.all_extents().next().unwrap().unwrap();
        for range in BlockRange::covering(first.address, first.bytes) {
            let mut into = vec![0; range.bytes() as usize];
            engine.read(&package.id(), range, &mut into, None).await.unwrap();
        }
    }
    slow.allow(0);
    let server = Server::of(&engine, Duration::from_secs(30)).await;

    let mut readers = Command::new(std::env::current_exe().unwrap());
    let readers = readers.args(["--exact", name, "--nocapture"]);
    let readers = readers.env(READS_SLOWLY, format!("{} {}", server.address, of_slow.id()));
    let mut readers = Ends(readers.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let said = tokio::process::ChildStdout::from_std(readers.0.stdout.take().unwrap()).unwrap();
    let mut said = BufReader::new(said).lines();
    while said.next_line().await.unwrap().expect("they end early") != "they read" {}

    let (mut stream, mut most, begun) = (server.connect().await, 0, Instant::now());
    let mut slowest = Duration::ZERO;
    for number in 0..400 {
        let (at, asked) = (number % 63 * MIB, Instant::now());
        ask_by(Kind::ReadChecked, &mut stream, of_well.id(), at, MIB as u32).await;
        let (header, body) = answer(&mut stream).await;
        assert_eq!(
            header.status,
            Status::Ok,
            "read {number}: {}",
            String::from_utf8_lossy(&body)
        );
        assert!(body[header.checksum_bytes()..] == bytes(at..at + MIB));
        slowest = slowest.max(asked.elapsed());
        most = most.max(resident_bytes());
    }
    let took = begun.elapsed();
    println!(
        "{SLOW_READERS} slow readers: at most {} MiB; 400 reads in {took:?}, the slowest {slowest:?}",
        most / MIB
    );
    assert!(most <= BUDGET_BYTES, "{most} bytes");
}

/// Forgets the most memory that this process had, and says how much it has.
fn forget_peak() -> u64 {
    // proc(5).
    fs::write("/proc/self/clear_refs", "5").unwrap();
    peak_bytes()
}

fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_looks_into_a_revision_of_many_files_takes_little_memory() {
    let name = "memory::whoever_looks_into_a_revision_of_many_files_takes_little_memory";
    if !alone(name, 1000) {
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let scratch = Scratch::folder_beyond(folder.path(), MIB as usize);
    let origin = Generated::new("many://", [("object".to_owned(), 1)]);
    let mut gathering = Gathering::new(scratch.clone());
    let number = gathering.begin_source(origin.identity(), "").unwrap();
    for files in 0..NAMES / 1000 {
        let listed = |file: u64| Listed {
            key: format!("folder-{}/file-{file:08}", file % 100),
            bytes: 100_000,
            modified_unix_nanos: 0,
            version: Version::ETag(file.to_string()),
        };
        let page: Vec<Listed> = (files * 1000..(files + 1) * 1000).map(listed).collect();
        gathering.add(number, &page).unwrap();
    }
    let Outcome::New(package) = gathering
        .build(SpaceId([1; 16]), None, &BuildOptions::default())
        .unwrap()
    else {
        panic!("a first revision is new")
    };
    let image_bytes = package.image_bytes();
    assert!(image_bytes > 4 * LOOK_BYTES_MAX, "{image_bytes}");
    let engine = Engine::open(EngineConfig {
        scratch: scratch.clone(),
        ..config(folder.path(), BUDGET_BYTES)
    })
    .unwrap();
    let mut dataset = origin.dataset(&package);
    let (name, pinned) = (dataset.name.clone(), "folder-7".to_owned());

    let before = forget_peak();
    dataset.rules.rules.push(Rule {
        path: pinned.clone(),
        pin: true,
        ..Rule::default()
    });
    engine.set_datasets(&[dataset], false);
    let rules = peak_bytes() - before;
    let before = forget_peak();
    let all = engine.stat(&name, "", &|| true).unwrap();
    let some = engine.stat(&name, &pinned, &|| true).unwrap();
    let stat = peak_bytes() - before;
    assert_eq!((all.files, some.files), (NAMES, NAMES / 100));
    let before = forget_peak();
    let (mut carried, mut gathering) = (0, Gathering::new(scratch));
    gathering.begin_source(origin.identity(), "").unwrap();
    let is_whole = gathering.carry(&package, |_, _| {
        carried += 1;
        true
    });
    let carry = peak_bytes() - before;
    assert!(is_whole.unwrap() && carried == NAMES);
    println!("image {image_bytes}: rules {rules}, stat {stat}, carry {carry}");
    for (what, bytes) in [("rules", rules), ("stat", stat), ("carry", carry)] {
        assert!(
            bytes < LOOK_BYTES_MAX,
            "{what}: {bytes} bytes for an image of {image_bytes}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_too_little_is_cut_off_when_others_wait_for_its_buffers() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    // Four buffers, of which one revision gets two.
    let engine = engine(folder.path(), 64 * MIB);
    let origin = Generated::one(4 * MIB);
    let package = origin.package_in(SpaceId([1; 16])).await;
    engine.set_datasets(&[origin.dataset(&package)], false);
    let whole = BlockRange::new(0, 4 * MIB).unwrap();
    engine
        .read(&package.id(), whole, &mut vec![0; 4 << 20], None)
        .await
        .unwrap();
    let server = Server::of(&engine, Duration::from_secs(600)).await;
    let ask = async |stream: &mut TcpStream| ask_by(Kind::ReadChecked, stream, package.id(), 0, 4 * MIB as u32).await;
    // Held until the end.
    let mut slow = Vec::new();
    for _ in 0..2 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(server.address).await.unwrap();
        // What the sockets do not take is in buffers.
        for _ in 0..16 {
            ask(&mut stream).await;
        }
        slow.push(stream);
    }
    let (mut other, begun, mut had_to_wait) = (server.connect().await, Instant::now(), false);
    // It may come before they have all.
    loop {
        ask(&mut other).await;
        let (header, body) = answer(&mut other).await;
        assert!(begun.elapsed().as_secs() < 60, "they keep their buffers");
        match header.status {
            Status::Busy => had_to_wait = true,
            Status::Ok if had_to_wait => break,
            status => assert_eq!(status, Status::Ok, "{}", String::from_utf8_lossy(&body)),
        }
    }
}

/// Asks on each of many connections for more than a socket takes, and takes nothing.
async fn read_slowly(whom: &str) {
    let (address, revision) = whom.split_once(' ').unwrap();
    let (address, revision): (SocketAddr, RevisionId) = (address.parse().unwrap(), revision.parse().unwrap());
    let mut streams: Vec<TcpStream> = Vec::new();
    for number in 0..SLOW_READERS as u64 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let kind = if number % 3 == 0 { Kind::Read } else { Kind::ReadChecked };
        // Each fourth from what the origin does not give.
        let from = if number % 4 == 0 { 64 * MIB } else { 0 };
        let mut requests = Vec::new();
        for request in 0..4 {
            let at = from + (number + request) % 16 * 4 * MIB;
            requests.extend(Header::request(kind, request, revision, at, 4 * MIB as u32, 0).encode());
        }
        stream.write_all(&requests).await.unwrap();
        streams.push(stream);
    }
    println!("they read");
    // Until it is ended.
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_million_small_objects_are_remembered_within_the_budget() {
    if !alone(
        "memory::five_million_small_objects_are_remembered_within_the_budget",
        2048,
    ) {
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let (space, of_stripe) = (SpaceId([7; 16]), STRIPE_BYTES / BLOCK_BYTES);
    let stripes = SMALL_OBJECTS.div_ceil(of_stripe);
    let spaces = folder.path().join(format!("v1/{space}"));
    fs::create_dir_all(&spaces).unwrap();
    for number in 0..stripes {
        let data = File::create(spaces.join(format!("{number}.data"))).unwrap();
        data.set_len(STRIPE_BYTES).unwrap();
        let side = File::create(spaces.join(format!("{number}.side"))).unwrap();
        side.set_len(side::FILE_BYTES).unwrap();
        side.write_all_at(&side::header(&space, number), 0).unwrap();
        // All blocks are there, and each is a cell.
        let bits = vec![0xff; (side::CHECKSUMS_AT - side::PRESENCE_AT) as usize];
        side.write_all_at(&bits, side::PRESENCE_AT).unwrap();
        let addresses = (number * STRIPE_BYTES..)
            .step_by(BLOCK_BYTES as usize)
            .take(of_stripe as usize);
        let sums = addresses.map(|address| block_checksum(&space, address, &[0; BLOCK_BYTES as usize]));
        let sums: Vec<u8> = sums.flat_map(u32::to_le_bytes).collect();
        side.write_all_at(&sums, side::CHECKSUMS_AT).unwrap();
    }
    let before = resident_bytes();
    let (engine, begun) = (engine(folder.path(), BUDGET_BYTES), Instant::now());
    while engine.report().tiers[0].used_bytes < stripes * STRIPE_BYTES {
        assert!(begun.elapsed().as_secs() < 120, "{:?}", engine.report().tiers);
        tokio::task::yield_now().await;
    }
    let objects = stripes * of_stripe;
    let (after, each) = (resident_bytes(), (resident_bytes() - before) as f64 / objects as f64);
    println!(
        "{objects} small objects after {:?}: {} MiB, {each:.1} bytes each, open stripes included",
        begun.elapsed(),
        after / MIB
    );
    assert!(after <= BUDGET_BYTES, "{after} bytes");
    // 3.3 bytes each are checksums and presence of the 248 stripes that are open.
    assert!(each <= 24.0 + 3.5, "{each} bytes each");
}
