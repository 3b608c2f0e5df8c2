//! The engine against a fake origin: what readers get, what the origin is asked, what survives.

mod alone;
mod bulk;
mod control;
mod disk;
mod epochs;
mod faults;
mod generated;
mod inspecting;
mod leaks;
mod long_run;
mod lying_server;
mod memory;
mod model;
mod neighbours;
mod node;
mod other_dataset;
mod outage;
mod overload;
mod partial;
mod reading;
mod rules;
mod scene;
mod single_flight;
mod stragglers;
mod tiers;
mod tls;
