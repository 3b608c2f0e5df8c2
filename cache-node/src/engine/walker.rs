//! Brings the small objects that [`walk`](crate::walk) says, a bounded number at a time, while there is room to keep them.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use penstock_protocol::geometry::{BlockRange, STRIPE_BYTES, round_up_to_block};
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_revision::Extent;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;

use super::{Announced, Inner};
use crate::inflight::Arrived;
use crate::limits::WHOLE_OBJECT_BYTES_MAX;
use crate::walk::{Kind, Next};

/// Walks until nothing is to be brought any more.
pub(crate) async fn run(engine: Weak<Inner>, revision: RevisionId, space: SpaceId) {
    let walking = Walking { engine, space };
    // Whoever holds the engine for long keeps it from being closed. The sources may be others by now.
    while let Some(engine) = walking.engine.upgrade() {
        let next = engine.walks.next(&space, Instant::now());
        let (Next::Bring { addresses, objects_max }, Some(announced)) = (next, engine.announced(&revision)) else {
            return;
        };
        drop(engine);
        if !bring(&walking, &announced, addresses, objects_max).await {
            return walking.pause();
        }
    }
}

/// Whatever happens to the task, another may walk.
struct Walking {
    engine: Weak<Inner>,
    space: SpaceId,
}

impl Walking {
    fn pause(&self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.walks.pause(&self.space, Instant::now());
        }
    }
}

impl Drop for Walking {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.walks.ended(&self.space);
        }
    }
}

/// False when there is no room, or an object could not be had.
async fn bring(walking: &Walking, announced: &Arc<Announced>, addresses: Range<u64>, objects_max: u64) -> bool {
    let space = walking.space;
    let Some(engine) = walking.engine.upgrade() else {
        return false;
    };
    let has_failed = Arc::new(AtomicBool::new(false));
    let extents = extents(&engine, announced, addresses.clone()).await;
    let (mut objects, mut until, ahead) = (Vec::new(), addresses.clone(), engine.ahead.clone());
    drop(engine);
    for extent in extents {
        // Never closed.
        let Ok(permit) = ahead.clone().acquire_owned().await else {
            return false;
        };
        let Some(engine) = walking.engine.upgrade() else {
            return false;
        };
        // Asked first: what arrives meanwhile is counted twice, and not missed.
        let bytes = engine.intake.in_flight.kept_bytes(&space) + round_up_to_block(extent.bytes);
        if has_failed.load(Ordering::Relaxed) || !engine.intake.tiers.has_room_ahead(&space, extent.address, bytes) {
            return false;
        }
        if begin(&engine, announced, &extent, (permit, has_failed.clone())).await {
            objects.push(extent.address);
        }
        if objects.len() as u64 == objects_max {
            until = addresses.start..extent.address + round_up_to_block(extent.bytes);
            break;
        }
    }
    if let Some(engine) = walking.engine.upgrade() {
        engine.walks.brought(&space, &objects, until);
    }
    !has_failed.load(Ordering::Relaxed)
}

/// The small objects that begin here, are wholly in a stripe of this node, and like those that were read.
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
                && engine
                    .walks
                    .is_like_them(&space, &Kind::of(&extent.object.key, extent.bytes))
        });
        Some(extents)
    };
    // A damaged package is said by whoever reads.
    spawn_blocking(look).await.ok().flatten().unwrap_or_default()
}

/// Whether something of the object was missing, and is on its way now. What it is given with is held until it has arrived.
async fn begin(
    engine: &Arc<Inner>,
    announced: &Arc<Announced>,
    extent: &Extent,
    (permit, has_failed): (OwnedSemaphorePermit, Arc<AtomicBool>),
) -> bool {
    let (bringing, announced, extent) = (engine.clone(), announced.clone(), extent.clone());
    let begun = spawn_blocking(move || bringing.start_ahead(&announced, &extent)).await;
    let units = begun.unwrap_or_default();
    let is_begun = !units.is_empty();
    if is_begun {
        tokio::spawn(async move {
            for unit in units {
                if let Arrived::Failed(_) = unit.arrived().await {
                    has_failed.store(true, Ordering::Relaxed);
                }
            }
            drop(permit);
        });
    }
    is_begun
}
