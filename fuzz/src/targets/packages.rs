//! Revision packages: as they are, and put together from parts, so that compression and digests are right whatever the parts say.

use penstock_protocol::geometry::{BlockRange, STRIPE_BYTES, round_up_to_block};
use penstock_revision::{Extent, Package};
use zstd::bulk::{Compressor, decompress};

use super::revisions;
use crate::numbers::Numbers;
use crate::{Target, Trying};

pub const TARGET: Target = Target {
    name: "packages",
    bytes_max: 8192,
    memory_max: 16 << 20,
    begin,
};

const HEADER_BYTES: usize = 128;
/// What an input begins with that is a package as it is.
const WHOLE: u8 = 0;
const PARTS: u8 = 1;

fn begin() -> Trying {
    let packages = revisions::some();
    // They are in memory.
    let whole = packages
        .iter()
        .filter_map(|package| Some([&[WHOLE], &package.whole().ok()?[..]].concat()));
    let parts = packages.iter().map(taken_apart);
    Trying {
        samples: whole.chain(parts).collect(),
        read: Box::new(read),
    }
}

fn read(input: &[u8]) {
    let mut numbers = Numbers(input);
    match numbers.u8() {
        WHOLE => use_package(Package::parse(numbers.0.to_vec().into()).ok()),
        _ => {
            let (bytes, image) = put_together(numbers);
            let package = Package::parse(bytes.into()).ok();
            if let Some(package) = &package {
                assert_eq!(package.image().as_deref(), Ok(image));
            }
            use_package(package);
        }
    }
}

/// Everything that a package offers.
fn use_package(package: Option<Package>) {
    let Some(package) = package else { return };
    let _ = (package.id(), package.space(), package.parent(), package.sources());
    assert!(!package.device_bytes().is_empty());
    let end = package.summary().space_bytes;
    let all: Result<Vec<Extent>, _> = package.all_extents().collect();
    let behind = |extent: &Extent| extent.address + round_up_to_block(extent.bytes);
    if let Ok(all) = &all {
        assert!(
            all.is_sorted_by(|one, next| behind(one) <= next.address),
            "extents overlap"
        );
        assert!(all.iter().all(|extent| extent.bytes > 0 && behind(extent) <= end));
    }
    let some = [
        0,
        4096,
        STRIPE_BYTES - 4096,
        STRIPE_BYTES,
        end.saturating_sub(4096),
        end,
        1 << 50,
    ];
    for range in some
        .into_iter()
        .filter_map(|address| BlockRange::new(address, 4096).ok())
    {
        check_range(&package, range, all.as_deref().ok());
    }
    for range in BlockRange::covering(0, 2 * STRIPE_BYTES) {
        check_range(&package, range, all.as_deref().ok());
    }
    let _ = package.image();
}

/// The extents of a range are those of all that have bytes in it.
fn check_range(package: &Package, range: BlockRange, all: Option<&[Extent]>) {
    if let (Ok(found), Some(all)) = (package.extents(range), all) {
        let is_within = |extent: &&Extent| {
            extent.address < range.end() && extent.address + round_up_to_block(extent.bytes) > range.address()
        };
        assert!(found.iter().eq(all.iter().filter(is_within)), "{range:?}");
    }
}

/// Space, parent, facts, chunks with their first addresses, image; what is compressed in a package is not.
fn taken_apart(package: &Package) -> Vec<u8> {
    let bytes = package.whole().unwrap_or_default();
    let length = |at: usize| Numbers(&bytes[56 + at * 8..]).u64() as usize;
    let (facts, rest) = bytes[HEADER_BYTES..].split_at(length(0));
    let (index, rest) = rest.split_at(length(1));
    let (chunks, image) = rest.split_at(length(2));
    let mut input = [&[PARTS], &bytes[8..56]].concat();
    put(&mut input, facts);
    let starts: Vec<[u64; 2]> = index
        .chunks_exact(16)
        .map(|entry| [Numbers(entry).u64(), Numbers(&entry[8..]).u64()])
        .collect();
    input.push(starts.len() as u8);
    for (at, [address, start]) in starts.iter().enumerate() {
        let end = starts.get(at + 1).map_or(chunks.len(), |[_, next]| *next as usize);
        input.extend(address.to_le_bytes());
        put(
            &mut input,
            &decompress(&chunks[*start as usize..end], 1 << 20).unwrap_or_default(),
        );
    }
    // Two bytes stand for the image, which is another target.
    assert!(!image.is_empty());
    input.extend([7, 8]);
    input
}

/// The package of [`taken_apart`], and its image.
fn put_together(mut parts: Numbers<'_>) -> (Vec<u8>, &[u8]) {
    let mut compressor = Compressor::new(1).expect("zstd has memory");
    let mut compress = |bytes: &[u8]| compressor.compress(bytes).expect("zstd has memory");
    let ids = parts.array::<48>();
    let facts = take(&mut parts);
    let (mut index, mut chunks) = (Vec::new(), Vec::new());
    for _ in 0..parts.u8() {
        index.extend(parts.array::<8>());
        index.extend((chunks.len() as u64).to_le_bytes());
        chunks.extend(compress(take(&mut parts)));
        if parts.is_empty() {
            break;
        }
    }
    let image = parts.0;
    let compressed = compress(image);
    let mut package = [&b"PSTKREV1"[..], &ids].concat();
    for length in [facts.len(), index.len(), chunks.len(), compressed.len(), image.len()] {
        package.extend((length as u64).to_le_bytes());
    }
    package.extend(blake3::hash(image).as_bytes());
    ([package, facts.to_vec(), index, chunks, compressed].concat(), image)
}

fn put(input: &mut Vec<u8>, bytes: &[u8]) {
    input.extend((bytes.len() as u16).to_le_bytes());
    input.extend(bytes);
}

fn take<'a>(parts: &mut Numbers<'a>) -> &'a [u8] {
    let length = parts.u16();
    parts.bytes(length.into())
}
