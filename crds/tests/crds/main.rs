//! The generated definitions: fresh, bounded, and what their rules refuse; and what the guide shows of them.

mod api_server;
mod generated;
mod guide;
mod rules;
mod schema;
