//! The generated definitions: fresh, bounded, and what their rules refuse.

mod api_server;
mod generated;
mod rules;
