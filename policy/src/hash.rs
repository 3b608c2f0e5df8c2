//! One hash of a key. It must not know what a key means.
//!
//! | bits | used for |
//! |---|---|
//! | 0..32 | bucket of the index and of a ghost, register and rank of the rounds |
//! | 32..48 | fingerprint of a ghost |
//! | 56..64 | tag in the index |
//! | all, multiplied once more | whether a trial takes the key |

/// The finalizer of MurmurHash3: every bit of the key decides on every bit of the hash. No secret, so that a run can be
/// repeated; whoever chooses keys to collide slows down a bucket of their own Dataset.
pub(crate) fn hashed(key: u64) -> u64 {
    let mut hash = key;
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}
