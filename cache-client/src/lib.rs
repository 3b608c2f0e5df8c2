//! Client of the cache nodes: placement, connections, fallback
