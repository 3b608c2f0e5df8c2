//! The controllers of Dataset and CacheRuntime
