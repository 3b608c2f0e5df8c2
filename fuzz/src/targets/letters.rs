//! Letters over Unix sockets: those of a mounter to the cache node of its node, by the server that answers them, and all others as
//! far as they are only decoded.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use penstock_cache_node::memory::Budget;
use penstock_cache_node::rules::Rules;
use penstock_cache_node::server::neighbour;
use penstock_cache_node::{Dataset, Engine, EngineConfig, TierConfig};
use penstock_descriptors as descriptors;
use penstock_origin::Origin;
use penstock_origin::fake::FakeOrigin;
use penstock_protocol::connection::{Connection, Shows, Unanswered};
use penstock_protocol::control::mounter::{FromMounter, Hello, Serve, ToMounter, from_mounter, to_mounter};
use penstock_protocol::control::neighbour::{
    FromCacheNode, Open, Opened, Range, ToCacheNode, Used, from_cache_node, to_cache_node,
};
use penstock_protocol::ids::{ConnectionId, RevisionId, SpaceId};
use penstock_revision::{Package, Scratch};
use prost::Message;
use rustix::net::Shutdown;

use super::revisions;
use crate::numbers::Numbers;
use crate::{Target, Trying};

pub const TARGET: Target = Target {
    name: "letters",
    bytes_max: 1024,
    memory_max: 16 << 20,
    begin,
};

/// Who gets the letters of an input.
const TO_CACHE_NODE: u8 = 0;
const TO_NOBODY: u8 = 1;
/// Letters of one connection.
const LETTERS_MAX: usize = 8;
/// The server answers at once, or hangs.
const PATIENCE: Duration = Duration::from_secs(10);

fn begin() -> Trying {
    let package = revisions::built(None, &[("a", 5), ("b", 70 << 20)]);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .expect("a runtime begins");
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let socket = folder.path().join("socket");
    let serving = runtime.block_on(async { engine(folder.path(), &package) });
    neighbour::serve(serving, &socket).expect("a cache node listens");
    Trying {
        samples: samples(&package.id()),
        read: Box::new(move |input| {
            let _lives = (&runtime, &folder);
            let mut letters = Numbers(input);
            if letters.u8() == TO_CACHE_NODE {
                exchange(&socket, letters);
            } else {
                decode(letters.0);
            }
        }),
    }
}

/// An engine that has a revision, and nothing stored.
pub fn engine(folder: &Path, package: &Package) -> Engine {
    let tier = TierConfig {
        name: "memory".to_owned(),
        path: folder.join("tier"),
        capacity_bytes: Some(1 << 30),
    };
    let engine = Engine::open(EngineConfig {
        tiers: vec![tier],
        memory: Budget::default(),
        scratch: Scratch::memory(),
    })
    .expect("an engine begins");
    let origin: Arc<dyn Origin> = Arc::new(FakeOrigin::default());
    let dataset = Dataset {
        uid: "one".to_owned(),
        name: "one".to_owned(),
        rules: Rules::default(),
        origins: vec![origin],
        revisions: vec![package.clone()],
    };
    engine.set_datasets(&[dataset], false);
    engine
}

/// Sends letters and reads answers until the cache node has had enough.
fn exchange(socket: &Path, mut letters: Numbers<'_>) {
    let connection = descriptors::connect_within(socket, PATIENCE).expect("the cache node listens");
    for _ in 0..LETTERS_MAX {
        let length = letters.u8();
        let letter = letters.bytes(length.into());
        // It may have closed the connection by now; an empty packet is the end of one.
        if letter.is_empty() || descriptors::send(connection.as_fd(), letter, &[]).is_err() {
            break;
        }
    }
    // It may be closed already.
    let _ = rustix::net::shutdown(&connection, Shutdown::Write);
    loop {
        match descriptors::receive(connection.as_fd()) {
            Ok(Some(answer)) => {
                FromCacheNode::decode(answer.bytes.as_slice()).expect("the cache node writes letters");
            }
            Ok(None) => return,
            // It closes with letters unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(error) => panic!("the cache node neither answers nor closes: {error}"),
        }
    }
}

fn decode(bytes: &[u8]) {
    let _ = (FromCacheNode::decode(bytes), FromMounter::decode(bytes));
    if let Ok(ToMounter {
        letter:
            Some(to_mounter::Letter::Serve(Serve {
                connection: Some(connection),
                ..
            })),
        ..
    }) = ToMounter::decode(bytes)
    {
        let _ = Connection::try_from(connection);
    }
    if let Ok(connection) = Connection::decode(bytes) {
        assert_eq!(Connection::decode(&connection.encode()).ok(), Some(connection.clone()));
        for count in 0..4 {
            let descriptors = &[(); 4][..count];
            assert!(connection.held(descriptors).queues.len() <= count);
        }
    }
}

fn samples(revision: &RevisionId) -> Vec<Vec<u8>> {
    let open = |stripe| {
        to_cache_node::Letter::Open(Open {
            revision: revision.as_bytes().to_vec(),
            stripe,
        })
    };
    let range = |address, bytes| Range { address, bytes };
    let used = to_cache_node::Letter::Used(Used {
        revision: revision.as_bytes().to_vec(),
        ranges: vec![range(0, 4096), range(64 << 20, 8192), range(1, 2)],
    });
    let letters = [open(0), used, open(u64::MAX)].map(|letter| ToCacheNode { letter: Some(letter) }.encode_to_vec());
    let framed = letters
        .iter()
        .flat_map(|letter| [&[letter.len() as u8], &letter[..]].concat());
    let connection = Connection {
        id: ConnectionId([1; 16]),
        number: 42,
        revision: *revision,
        space: SpaceId([3; 16]),
        device_bytes: vec![4096, 1 << 43],
        seeds: vec!["pool-0.pool:7070".to_owned()],
        read_timeout: Duration::from_secs(300),
        shows: Shows::Tree,
        unanswered: Unanswered::InLedger,
    };
    let serve = ToMounter {
        id: 7,
        letter: Some(to_mounter::Letter::Serve(Serve {
            connection: Some((&connection).into()),
            initialised: true,
        })),
    };
    let hello = FromMounter {
        id: 0,
        letter: Some(from_mounter::Letter::Hello(Hello {
            version: 1,
            connections: vec![vec![1; 16]],
        })),
    };
    let opened = FromCacheNode {
        letter: Some(from_cache_node::Letter::Opened(Opened {})),
    };
    let others = [
        connection.encode(),
        serve.encode_to_vec(),
        hello.encode_to_vec(),
        opened.encode_to_vec(),
    ];
    let others = others.map(|letter| [&[TO_NOBODY], &letter[..]].concat());
    [[TO_CACHE_NODE].into_iter().chain(framed).collect()]
        .into_iter()
        .chain(others)
        .collect()
}
