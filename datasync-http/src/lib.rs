//! The HTTP transport of Datasync for Rust: a sans-I/O codec, and clients behind one small seam.
