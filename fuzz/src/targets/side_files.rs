//! Side files of stripes, and the data beside them: by the cache node that opens a stripe and by the mounter that is handed its
//! files. A block is there if it is present and matches its checksum, and is not there otherwise.

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use penstock_cache_node::AnyStripe;
use penstock_mounter::NearFiles;
use penstock_protocol::checksum::block_checksum;
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange, PAGE_BYTES, STRIPE_BYTES};
use penstock_protocol::ids::SpaceId;
use penstock_protocol::side::{BEGINS_AT, BLOCKS, CHECKSUMS_AT, FILE_BYTES, PRESENCE_AT, header};

use crate::numbers::Numbers;
use crate::{Target, Trying};

pub const TARGET: Target = Target {
    name: "side_files",
    bytes_max: 512,
    memory_max: 4 << 20,
    begin,
};

const SPACE: SpaceId = SpaceId([9; 16]);
const STRIPE: u64 = 3;
const BLOCK: usize = BLOCK_BYTES as usize;
const BLOCKS_OF_PAGE: u32 = (PAGE_BYTES / BLOCK_BYTES) as u32;
/// Where blocks are stored and looked at: the first, some over the border of a page, and the last.
const STORED: [Range<u32>; 4] = [0..3, 3..5, 250..258, BLOCKS - 2..BLOCKS];
const LOOKED_AT: [Range<u32>; 3] = [0..8, 248..260, BLOCKS - 4..BLOCKS];

fn begin() -> Trying {
    // In memory: a disk would be written with each input.
    let folder = tempfile::tempdir_in("/dev/shm").expect("there is room for a folder");
    let open = move || AnyStripe::open(folder.path(), SPACE, STRIPE);
    let stripe = open().expect("a stripe opens");
    for cell in STORED {
        store(&stripe, cell);
    }
    let [data, side] = stripe.files().expect("its files open");
    let writable = |file: &File| {
        let path = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)));
        path.and_then(|path| OpenOptions::new().write(true).open(path))
            .expect("its files can be written")
    };
    let files = Files {
        as_written: read_all(&side),
        data: writable(&data),
        side: writable(&side),
    };
    drop((stripe, data, side));
    Trying {
        samples: samples(),
        read: Box::new(move |input| {
            files.change(input);
            check(&open, &files);
        }),
    }
}

/// A few changes each: of a checksum, of presence, of where cells begin, of data, of the header, of the length.
fn samples() -> Vec<Vec<u8>> {
    let at = |place: u64, bytes: &[u8]| {
        let place = place as u32;
        [&[0, bytes.len() as u8], &place.to_le_bytes()[..], bytes].concat()
    };
    let data = |block: u8, byte: u16| [&[1, block], &byte.to_le_bytes()[..], &[1]].concat();
    vec![
        vec![],
        at(CHECKSUMS_AT + 4, &[1; 4]),
        [at(PRESENCE_AT, &[0xff; 8]), at(BEGINS_AT + 31, &[0xff; 8])].concat(),
        [data(1, 7), data(9, 4095), data(16, 0)].concat(),
        at(8, &[2]),
        [&[2], &(FILE_BYTES as u32 - 1).to_le_bytes()[..]].concat(),
    ]
}

struct Files {
    as_written: Vec<u8>,
    data: File,
    side: File,
}

impl Files {
    /// Writes the files anew, with the changes that an input asks for.
    fn change(&self, input: &[u8]) {
        let mut side = self.as_written.clone();
        for block in LOOKED_AT.into_iter().flatten() {
            self.write_data(block, &content(block));
        }
        let mut changes = Numbers(input);
        while !changes.is_empty() {
            match changes.u8() % 3 {
                0 => {
                    let length = changes.u8() % 16;
                    let place = changes.u32() as usize % side.len().max(1);
                    for (byte, change) in side.iter_mut().skip(place).zip(changes.bytes(length.into())) {
                        *byte ^= change;
                    }
                }
                1 => {
                    let blocks: Vec<u32> = LOOKED_AT.into_iter().flatten().collect();
                    let block = blocks[usize::from(changes.u8()) % blocks.len()];
                    let mut bytes = content(block);
                    bytes[usize::from(changes.u16()) % BLOCK] ^= changes.u8();
                    self.write_data(block, &bytes);
                }
                _ => side.resize(changes.u32() as usize % (FILE_BYTES as usize + 8192), 0),
            }
        }
        let written = self.side.set_len(0).and_then(|()| self.side.write_all_at(&side, 0));
        written.expect("the side file is written");
    }

    fn write_data(&self, block: u32, bytes: &[u8]) {
        let written = self.data.write_all_at(bytes, u64::from(block) * BLOCK_BYTES);
        written.expect("data is written");
    }
}

fn check(open: &impl Fn() -> std::io::Result<AnyStripe>, files: &Files) {
    // The mounter first: a cache node begins a side file anew that makes no sense.
    let side = read_all(&files.side);
    let shown = open_read_only(&files.data).and_then(|data| Ok([data, open_read_only(&files.side)?]));
    let near = NearFiles::new(shown.expect("files open again"), &SPACE, STRIPE);
    assert_eq!(
        near.is_ok(),
        side.len() as u64 >= FILE_BYTES && side.starts_with(&header(&SPACE, STRIPE))
    );
    let expected = Expected::of(&side, &files.data);
    if let Ok(near) = &near
        && side.len() as u64 == FILE_BYTES
    {
        expected.check(|range, into| near.read(&SPACE, range, into));
    }
    let stripe = open().expect("a stripe opens whatever its side file is");
    expected.check(|range, into| stripe.read(range, into));
    check_cells(&stripe, &expected);
    // It goes on as if nothing had been.
    let evicted = stripe.evict(3);
    assert_eq!(evicted.contains(&3), expected.is_present(3));
    stripe.punch().expect("holes are punched");
    store(&stripe, 2..4);
    let mut bytes = vec![0; 2 * BLOCK];
    assert!(stripe.read(range(2..4), &mut bytes) && bytes == [content(2), content(3)].concat());
}

/// Cells are the present blocks, once each, and lie within pages.
fn check_cells(stripe: &AnyStripe, expected: &Expected) {
    let mut at = 0;
    for cell in stripe.cells() {
        assert!(
            at <= cell.start && cell.start < cell.end && cell.end <= BLOCKS,
            "{cell:?}"
        );
        assert_eq!(cell.start / BLOCKS_OF_PAGE, (cell.end - 1) / BLOCKS_OF_PAGE, "{cell:?}");
        assert!((at..cell.start).all(|block| !expected.is_present(block)), "{cell:?}");
        assert!(cell.clone().all(|block| expected.is_present(block)), "{cell:?}");
        at = cell.end;
    }
    assert!((at..BLOCKS).all(|block| !expected.is_present(block)));
}

/// What the layout says, read in the plainest way.
struct Expected {
    /// Empty when the file makes no sense.
    side: Vec<u8>,
    data: File,
}

impl Expected {
    fn of(side: &[u8], data: &File) -> Self {
        let makes_sense = side.len() as u64 == FILE_BYTES && side.starts_with(&header(&SPACE, STRIPE));
        Self {
            side: if makes_sense { side.to_vec() } else { Vec::new() },
            data: open_read_only(data).expect("files open again"),
        }
    }

    fn is_present(&self, block: u32) -> bool {
        let byte = self.side.get(PRESENCE_AT as usize + block as usize / 8);
        byte.is_some_and(|byte| byte & (1 << (block % 8)) != 0)
    }

    /// Its bytes, if it is there and matches.
    fn block(&self, block: u32) -> Option<Vec<u8>> {
        let mut bytes = vec![0; BLOCK];
        let read = self.data.read_exact_at(&mut bytes, u64::from(block) * BLOCK_BYTES);
        read.expect("data is read");
        let sum = block_checksum(&SPACE, STRIPE * STRIPE_BYTES + u64::from(block) * BLOCK_BYTES, &bytes);
        let place = CHECKSUMS_AT as usize + block as usize * 4;
        (self.is_present(block) && Numbers(&self.side[place..]).u32() == sum).then_some(bytes)
    }

    /// Compares with a reader that says whether it has all of a range.
    fn check(&self, read: impl Fn(BlockRange, &mut [u8]) -> bool) {
        for blocks in LOOKED_AT {
            let singles = blocks.clone().map(|block| block..block + 1);
            let pairs = (blocks.start..blocks.end - 1).map(|block| block..block + 2);
            for run in singles.chain(pairs).chain([blocks]) {
                let expected: Option<Vec<Vec<u8>>> = run.clone().map(|block| self.block(block)).collect();
                let mut bytes = vec![0; run.len() * BLOCK];
                let found = read(range(run.clone()), &mut bytes).then_some(bytes);
                assert_eq!(found.is_some(), expected.is_some(), "{run:?}");
                assert!(
                    found == expected.map(|blocks| blocks.concat()),
                    "other bytes of {run:?}"
                );
            }
        }
    }
}

fn store(stripe: &AnyStripe, blocks: Range<u32>) {
    let bytes: Vec<u8> = blocks.clone().flat_map(content).collect();
    let addresses = (range(blocks.clone()).address()..).step_by(BLOCK);
    let sums = addresses
        .zip(bytes.chunks_exact(BLOCK))
        .map(|(address, block)| block_checksum(&SPACE, address, block));
    stripe
        .store(range(blocks), &bytes, &sums.collect::<Vec<_>>())
        .expect("blocks are stored");
}

fn content(block: u32) -> Vec<u8> {
    (0..BLOCK)
        .map(|at| (at as u32 ^ block.wrapping_mul(31)) as u8 | 1)
        .collect()
}

fn range(blocks: Range<u32>) -> BlockRange {
    let address = STRIPE * STRIPE_BYTES + u64::from(blocks.start) * BLOCK_BYTES;
    BlockRange::new(address, blocks.len() as u64 * BLOCK_BYTES).expect("blocks of one stripe")
}

fn read_all(file: &File) -> Vec<u8> {
    let readable = open_read_only(file).expect("files open again");
    let mut bytes = vec![0; readable.metadata().expect("files have lengths").len() as usize];
    readable.read_exact_at(&mut bytes, 0).expect("files are read");
    bytes
}

/// As the cache node hands files over.
fn open_read_only(file: &File) -> std::io::Result<File> {
    let no_access_time = rustix::fs::OFlags::NOATIME.bits() as i32;
    let mut options = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::custom_flags(options.read(true), no_access_time);
    options.open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)))
}
