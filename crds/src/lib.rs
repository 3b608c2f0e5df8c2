//! API types of penstock.io: Dataset and CacheRuntime
