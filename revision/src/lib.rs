//! Space, extents, EROFS images and revision packages; pure
