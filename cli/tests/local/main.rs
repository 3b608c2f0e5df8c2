//! `penstock` as a person uses it, from a bucket on a real S3 server to files in a real mount. Needs root, FUSE and EROFS.

mod bucket;
mod forms;
mod mounting;
mod reading;
mod refusing;
