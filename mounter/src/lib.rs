//! FUSE session that serves a space as files, and its process
