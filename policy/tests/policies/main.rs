//! What the policies promise: on traces, in epochs, while traffic changes, beside a naive model, in memory.

mod epochs;
mod judge;
mod memory;
mod model;
mod run;
mod traces;
