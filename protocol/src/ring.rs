//! The ring: which cache nodes there are, and which of them owns a stripe.
//!
//! Placement is weighted rendezvous hashing: every member draws a score for a stripe and the order of the scores is the
//! order in which a client asks. A change of members moves only the stripes of the members that changed. The scores are
//! those of Schindelhauer and Schomaker, "Weighted Distributed Hash Tables" (SPAA 2005): `-weight / ln(u)` with a
//! uniform `u` from the hash of member and stripe.

use bytes::{Buf, BufMut};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::ids::SpaceId;

/// Most members of one ring: far above any pool, so that a damaged length cannot ask for memory.
pub const MEMBERS_MAX: usize = 4096;

/// One cache node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Stable name of the node; placement depends on it, so it survives a restart with its cache.
    pub name: String,
    /// `host:port` of the bulk protocol. A host name is looked up anew for each connection.
    pub address: String,
    /// Share of the stripes, relative to the other members; 0 owns nothing.
    pub weight: u32,
}

/// The members at one moment. A larger epoch replaces a smaller one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// Grows with each change of the members.
    pub epoch: u64,
    /// In any order: placement does not depend on it.
    pub members: Vec<Member>,
}

/// Why bytes are not a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes of the ring end early or name more than 4096 members or no UTF-8 text")]
pub struct NotARing;

impl Ring {
    /// Members in the order in which a client asks them for `stripe` of `space`: the first R hold the replicas.
    pub fn owners(&self, space: &SpaceId, stripe: u64) -> Vec<&Member> {
        let mut key = [0; 24];
        key[..16].copy_from_slice(space.as_bytes());
        key[16..].copy_from_slice(&stripe.to_le_bytes());
        let mut scored: Vec<(f64, &Member)> = self
            .members
            .iter()
            .filter(|m| m.weight > 0)
            .map(|m| (score(m, &key), m))
            .collect();
        scored.sort_by(|(a, m), (b, n)| b.total_cmp(a).then_with(|| m.name.cmp(&n.name)));
        scored.into_iter().map(|(_, member)| member).collect()
    }

    /// The ring as bytes, little-endian: epoch, member count, then name, address (each with a 16-bit length), weight.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u64_le(self.epoch);
        out.put_u32_le(self.members.len() as u32);
        for Member { name, address, weight } in &self.members {
            for text in [name, address] {
                out.put_u16_le(text.len() as u16);
                out.put_slice(text.as_bytes());
            }
            out.put_u32_le(*weight);
        }
        out
    }

    /// The ring that [`Ring::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are anything else; never panics and never asks for more memory than the bytes justify.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, NotARing> {
        let epoch = bytes.try_get_u64_le().map_err(|_| NotARing)?;
        let count = bytes.try_get_u32_le().map_err(|_| NotARing)? as usize;
        if count > MEMBERS_MAX {
            return Err(NotARing);
        }
        let members = (0..count)
            .map(|_| {
                let name = text(&mut bytes)?;
                let address = text(&mut bytes)?;
                let weight = bytes.try_get_u32_le().map_err(|_| NotARing)?;
                Ok(Member { name, address, weight })
            })
            .collect::<Result<_, NotARing>>()?;
        if bytes.has_remaining() {
            return Err(NotARing);
        }
        Ok(Self { epoch, members })
    }
}

fn text(bytes: &mut &[u8]) -> Result<String, NotARing> {
    let length = bytes.try_get_u16_le().map_err(|_| NotARing)? as usize;
    let (text, rest) = bytes.split_at_checked(length).ok_or(NotARing)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).map_err(|_| NotARing)
}

fn score(member: &Member, key: &[u8; 24]) -> f64 {
    let hash = xxh3_64_with_seed(key, xxh3_64_with_seed(member.name.as_bytes(), 0));
    // 53 bits of the hash as a number in (0, 1).
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(member.weight) / uniform.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(weights: &[u32]) -> Ring {
        let members = weights
            .iter()
            .enumerate()
            .map(|(i, weight)| Member {
                name: format!("cache-{i}"),
                address: format!("cache-{i}:7070"),
                weight: *weight,
            })
            .collect();
        Ring { epoch: 3, members }
    }

    fn shares(ring: &Ring) -> Vec<f64> {
        let space = SpaceId([9; 16]);
        let mut counts = vec![0; ring.members.len()];
        for stripe in 0..30_000 {
            let first = ring.owners(&space, stripe)[0];
            counts[ring.members.iter().position(|m| m == first).unwrap()] += 1;
        }
        counts.iter().map(|c| f64::from(*c) / 30_000.0).collect()
    }

    #[test]
    fn stripes_spread_by_weight() {
        for (weights, expected) in [
            (&[1, 1, 1][..], [1.0 / 3.0; 3].to_vec()),
            (&[1, 3], vec![0.25, 0.75]),
            (&[0, 5], vec![0.0, 1.0]),
        ] {
            for (share, expected) in shares(&ring(weights)).iter().zip(expected) {
                assert!(
                    (share - expected).abs() < 0.02,
                    "{weights:?}: {share} instead of {expected}"
                );
            }
        }
    }

    #[test]
    fn a_member_that_leaves_moves_only_its_own_stripes() {
        let (before, space) = (ring(&[1; 5]), SpaceId([1; 16]));
        let mut after = before.clone();
        after.members.remove(2);
        for stripe in 0..2000 {
            let old = before.owners(&space, stripe);
            let expected: Vec<_> = old.into_iter().filter(|m| m.name != "cache-2").collect();
            assert_eq!(after.owners(&space, stripe), expected);
        }
    }

    #[test]
    fn placement_does_not_depend_on_the_order_of_members() {
        let (a, space) = (ring(&[1, 2, 3]), SpaceId([1; 16]));
        let mut b = a.clone();
        b.members.reverse();
        for stripe in 0..200 {
            assert_eq!(a.owners(&space, stripe), b.owners(&space, stripe));
        }
    }

    #[test]
    fn a_ring_reads_what_it_wrote_and_refuses_the_rest() {
        let ring = ring(&[1, 0, 7]);
        let bytes = ring.encode();
        assert_eq!(Ring::decode(&bytes), Ok(ring));
        for cut in 0..bytes.len() {
            assert_eq!(Ring::decode(&bytes[..cut]), Err(NotARing));
        }
        assert_eq!(Ring::decode(&[0xff; 64]), Err(NotARing));
    }
}
