//! The cache engine and its server
