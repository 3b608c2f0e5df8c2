//! Headers of the bulk protocol and encoded rings. What is understood is written in one way only.

use penstock_protocol::checksum::crc32c;
use penstock_protocol::frame::{
    FrameError, HEADER_BYTES, Header, Kind, PACKAGE_BYTES_MAX, READ_BYTES_MAX, Status, VERSION, VERSION_MIN,
};
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_protocol::ring::{MEMBERS_MAX, Member, Ring};

use crate::{Target, Trying};

pub const TARGET: Target = Target {
    name: "frames",
    bytes_max: 4096,
    memory_max: 1 << 20,
    begin,
};

fn begin() -> Trying {
    let revision = RevisionId([3; 32]);
    let kinds = [Kind::Read, Kind::Package, Kind::Ring, Kind::ReadChecked];
    let requests = kinds.map(|kind| Header::request(kind, 7, revision, 1 << 40, 1 << 20, 12));
    let answers = [requests[0].data(8192, 13), requests[1].error(Status::Drifted, 20, 13)];
    let headers = requests
        .into_iter()
        .chain(answers)
        .map(|header| header.encode().to_vec());
    let member = |number: u32| Member {
        name: format!("cache-{number}"),
        address: format!("cache-{number}:7070"),
        weight: number,
    };
    let members = (0..3).map(member).collect();
    Trying {
        samples: headers.chain([Ring { epoch: 3, members }.encode()]).collect(),
        read: Box::new(read),
    }
}

fn read(input: &[u8]) {
    if let Some(bytes) = input.first_chunk() {
        read_header(bytes);
    }
    if let Ok(ring) = Ring::decode(input) {
        assert!(ring.members.len() <= MEMBERS_MAX);
        assert_eq!(ring.encode(), input);
        let owners = ring.owners(&SpaceId([1; 16]), 7);
        assert!(owners.iter().all(|owner| owner.weight > 0));
    }
}

fn read_header(bytes: &[u8; HEADER_BYTES]) {
    let _ = Header::decode(bytes);
    let mut sealed = *bytes;
    sealed[12..16].fill(0);
    let sum = crc32c(&sealed);
    sealed[12..16].copy_from_slice(&sum.to_le_bytes());
    match Header::decode(&sealed) {
        Ok(header) => {
            assert_eq!(header.encode(), sealed);
            assert!(header.length <= READ_BYTES_MAX.max(PACKAGE_BYTES_MAX));
            assert!(header.checksum_bytes() <= header.length as usize);
        }
        Err(FrameError::Version(version)) => assert!(!(VERSION_MIN..=VERSION).contains(&version)),
        Err(error) => assert_ne!(error, FrameError::Checksum),
    }
}
