//! What cache nodes are told: that somebody serves a revision. Who has all that pods read in the kernel's memory asks them nothing
//! else, and a revision of which nobody hears is dropped.

use penstock_protocol::frame::{Header, Kind, TEXT_BYTES_MAX};
use penstock_protocol::ids::{RevisionId, SpaceId};

use crate::lane::LaneError;
use crate::limits::USE_TOLD_NODES;
use crate::patience::Patience;
use crate::{CacheClient, ClientError};

impl CacheClient {
    /// Says that this process serves a revision; to be said again each [`crate::limits::USE_TOLD_INTERVAL`].
    ///
    /// # Errors
    /// When no cache node heard it.
    pub async fn tell_use(&self, revision: &RevisionId) -> Result<(), ClientError> {
        let mut patience = Patience::new(self.0.deadline);
        let ring = self.0.ring(&mut patience).await?;
        // Revisions are spread, and all who serve one tell the same nodes.
        let place = SpaceId(std::array::from_fn(|byte| revision.0[byte]));
        let order: Vec<&str> = ring.owners(&place, 0).iter().map(|m| m.address.as_str()).collect();
        let mut heard = 0;
        for member in self.0.nodes.alive_first(&order) {
            match self.tell(member, revision, ring.epoch).await {
                Ok(()) => heard += 1,
                Err(said) => patience.last = said,
            }
            if heard == USE_TOLD_NODES {
                break;
            }
        }
        if heard > 0 {
            return Ok(());
        }
        self.0.nodes.doubt_ring(ring.epoch);
        Err(patience.over())
    }

    /// Asks for the ring, in the name of a revision. A newer one is learnt by its epoch, as from every answer.
    async fn tell(&self, member: &str, revision: &RevisionId, epoch: u64) -> Result<(), String> {
        let request = Header::request(Kind::Ring, 0, *revision, 0, 0, epoch);
        let told = self.0.nodes.round_trip(member, request, async |lane, reply| {
            if reply.length > TEXT_BYTES_MAX {
                return Err(LaneError::Nonsense("a ring that is too long"));
            }
            lane.body(&mut vec![0; reply.length as usize]).await
        });
        told.await.map(drop).map_err(|(_, said)| said)
    }
}
