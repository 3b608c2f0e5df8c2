//! The clients of origins against servers: real ones, and some that do what a few do.

mod azure;
mod claim;
mod conformance;
mod first_contact;
mod folder;
mod gcs;
mod hdfs;
mod hub;
mod in_place;
mod kerberos;
mod listing;
mod manifest;
mod proxy;
mod reach;
mod stores;
mod tls;
mod unversioned;
mod web;
mod workload_identity;
