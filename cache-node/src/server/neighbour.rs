//! Hands the files of stripes to the mounter of the same node, which reads what is cached without a network between, and
//! hears from it what was read (`protocol/proto/neighbour.proto`).
//!
//! *Why that is safe*: the files are read-only for the mounter, which runs as another user. An address never gets other bytes
//! and every block is compared with its checksum, so what is evicted, damaged or half written under the mounter is a miss
//! there, and it asks over the network as if it had no files.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use penstock_descriptors::{self as descriptors, Packet};
use penstock_protocol::control::neighbour::{
    FromCacheNode, NotHere, Open, Opened, ToCacheNode, Used, from_cache_node, to_cache_node,
};
use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::RevisionId;
use prost::Message;

use crate::engine::Engine;
use crate::limits::{ACCEPT_PAUSE, NEIGHBOUR_PATIENCE, NEIGHBOURS_MAX, USED_RANGES_MAX};

/// Listens at `socket`, over one that may be left there, and serves whoever connects, on threads of its own. Whoever can pass
/// through the socket's folder may connect.
///
/// # Errors
/// When the folder cannot be written.
pub fn serve(engine: Engine, socket: &Path) -> io::Result<()> {
    let listener = descriptors::listen_at(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666))?;
    let connected = Arc::new(());
    let accepting = move || {
        loop {
            if let Err(error) = welcome(&engine, listener.as_fd(), &connected) {
                tracing::warn!(%error, "accept a mounter of this node; it reads over the network");
                // It stays in the queue, so that without a pause this would spin.
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    };
    thread::Builder::new().name("neighbours".into()).spawn(accepting)?;
    Ok(())
}

/// `connected` has an owner for each that is, beside the caller.
fn welcome(engine: &Engine, listener: BorrowedFd<'_>, connected: &Arc<()>) -> io::Result<()> {
    let peer = descriptors::accept_peer(listener)?;
    if Arc::strong_count(connected) > NEIGHBOURS_MAX {
        tracing::warn!(
            NEIGHBOURS_MAX,
            "too many mounters of this node at the same time; one is refused"
        );
        return Ok(());
    }
    descriptors::be_patient(peer.as_fd(), None, Some(NEIGHBOUR_PATIENCE))?;
    let (engine, connected) = (engine.clone(), connected.clone());
    let serve = move || {
        let _connected = connected;
        if let Err(error) = answer_letters(&engine, &peer) {
            tracing::debug!(%error, "the connection of a mounter of this node ended");
        }
    };
    thread::Builder::new().name("neighbour".into()).spawn(serve)?;
    Ok(())
}

fn answer_letters(engine: &Engine, peer: &OwnedFd) -> io::Result<()> {
    while let Some(Packet { bytes, descriptors: _ }) = descriptors::receive(peer.as_fd())? {
        let letter = ToCacheNode::decode(bytes.as_slice()).map_err(io::Error::other)?;
        match letter.letter {
            Some(to_cache_node::Letter::Open(open)) => hand_over(engine, peer.as_fd(), &open)?,
            Some(to_cache_node::Letter::Used(used)) => note(engine, &used),
            None => {
                return Err(io::Error::other(
                    "a letter of a kind that this cache node does not know",
                ));
            }
        }
    }
    Ok(())
}

fn hand_over(engine: &Engine, peer: BorrowedFd<'_>, open: &Open) -> io::Result<()> {
    let revision = RevisionId::try_from(open.revision.as_slice()).map_err(io::Error::other)?;
    let files = engine.stripe_files(&revision, open.stripe);
    let letter = if files.is_empty() {
        from_cache_node::Letter::NotHere(NotHere {})
    } else {
        from_cache_node::Letter::Opened(Opened {})
    };
    let answer = FromCacheNode { letter: Some(letter) };
    let files: Vec<_> = files.iter().flatten().map(AsFd::as_fd).collect();
    descriptors::send(peer, &answer.encode_to_vec(), &files)
}

fn note(engine: &Engine, used: &Used) {
    let Ok(revision) = RevisionId::try_from(used.revision.as_slice()) else {
        return;
    };
    for range in used
        .ranges
        .iter()
        .take(USED_RANGES_MAX)
        .filter_map(|range| BlockRange::new(range.address, range.bytes).ok())
    {
        engine.note_used(&revision, range);
    }
}
