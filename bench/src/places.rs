//! Where the big file lies in the space of a revision, and so in the flat file.

use anyhow::{Context, Result, ensure};
use penstock_revision::Package;

use crate::data::BIG;
use crate::pipeline::Request;

/// The big file in pieces of `bytes`, none of which crosses the border of a stripe.
pub fn pieces(package: &Package, bytes: u64) -> Result<Vec<Request>> {
    let (address, length) = big(package)?;
    let first = address.next_multiple_of(bytes);
    let starts = (first..address + length).step_by(bytes as usize);
    let pieces: Vec<_> = starts
        .filter(|start| start + bytes <= address + length)
        .map(|start| (start, bytes))
        .collect();
    ensure!(!pieces.is_empty(), "the big file is too short");
    Ok(pieces)
}

/// Address and length of the big file.
pub fn big(package: &Package) -> Result<Request> {
    for extent in package.all_extents() {
        let extent = extent?;
        if extent.object.key == BIG {
            return Ok((extent.address, extent.bytes));
        }
    }
    None.context("the big file has an extent")
}
