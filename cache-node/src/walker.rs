//! Brings the small objects that [`walk`](crate::walk) says, a bounded number at a time, while there is room to keep them.

use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Instant;

use penstock_protocol::geometry::{BlockRange, STRIPE_BYTES, round_up_to_block};
use penstock_revision::Extent;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;

use crate::engine::{Announced, Inner};
use crate::limits::WHOLE_OBJECT_BYTES_MAX;
use crate::walk::Next;

/// Walks until nothing is to be brought any more.
pub(crate) async fn run(engine: Weak<Inner>, announced: Arc<Announced>) {
    let space = announced.package.space();
    // Whoever holds the engine for long keeps it from being closed.
    while let Some(engine) = engine.upgrade() {
        let Next::Bring { addresses, objects_max } = engine.walks.next(&space, Instant::now()) else {
            return;
        };
        if !bring(&engine, &announced, addresses, objects_max).await {
            return engine.walks.stop(&space);
        }
    }
}

/// False when there is no room.
async fn bring(engine: &Arc<Inner>, announced: &Arc<Announced>, addresses: Range<u64>, objects_max: u64) -> bool {
    let space = announced.package.space();
    let (mut objects, mut until) = (Vec::new(), addresses.clone());
    for extent in extents(engine, announced, addresses.clone()).await {
        if !engine.has_room_ahead(&space, extent.bytes) {
            return false;
        }
        // Never closed.
        let Ok(permit) = engine.ahead.clone().acquire_owned().await else {
            return false;
        };
        if begin(engine, announced, &extent, permit).await {
            objects.push(extent.address);
        }
        if objects.len() as u64 == objects_max {
            until = addresses.start..extent.address + round_up_to_block(extent.bytes);
            break;
        }
    }
    engine.walks.brought(&space, &objects, until);
    true
}

/// The small objects that begin here and are wholly in a stripe of this node.
async fn extents(engine: &Arc<Inner>, announced: &Arc<Announced>, addresses: Range<u64>) -> Vec<Extent> {
    let (engine, announced) = (engine.clone(), announced.clone());
    let look = move || {
        let space = announced.package.space();
        let range = BlockRange::new(addresses.start, addresses.end - addresses.start).ok()?;
        if !engine.owns(&space, range.stripe()) {
            return None;
        }
        let mut extents = announced.package.extents(range).ok()?;
        extents.retain(|extent| {
            let last = extent.address + extent.bytes.max(1) - 1;
            extent.bytes <= WHOLE_OBJECT_BYTES_MAX
                && addresses.contains(&extent.address)
                && last / STRIPE_BYTES == extent.address / STRIPE_BYTES
        });
        Some(extents)
    };
    // A damaged package is said by whoever reads.
    spawn_blocking(look).await.ok().flatten().unwrap_or_default()
}

/// Whether something of the object was missing, and is on its way now.
async fn begin(engine: &Arc<Inner>, announced: &Arc<Announced>, extent: &Extent, permit: OwnedSemaphorePermit) -> bool {
    let (bringing, announced, extent) = (engine.clone(), announced.clone(), extent.clone());
    let begun = spawn_blocking(move || bringing.start_ahead(&announced, &extent)).await;
    let units = begun.unwrap_or_default();
    let is_begun = !units.is_empty();
    if is_begun {
        tokio::spawn(async move {
            for unit in units {
                unit.arrived().await;
            }
            drop(permit);
        });
    }
    is_begun
}
