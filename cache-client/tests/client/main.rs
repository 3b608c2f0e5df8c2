//! The client against cache nodes that die, lie and refuse.

mod fake_node;
mod packages;
mod reading;
mod rings;
mod scene;
mod uses;
