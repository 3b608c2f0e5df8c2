//! The cache node as a process: the bulk protocol for mounters, the control protocol for the operator.
//!
//! Handlers only translate; what a node knows beside its blocks is in [`node`].

mod answers;
pub mod bulk;
pub mod control;
mod failures;
pub mod inspection;
pub mod neighbour;
pub mod node;
mod origins;
mod peer;
mod reporting;
mod seal;
mod shares;
mod uses;
