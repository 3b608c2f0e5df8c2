//! The engine against a fake origin: what readers get, what the origin is asked, what survives.

mod faults;
mod generated;
mod model;
mod scene;
mod single_flight;
