//! The bodies of the fuzz targets. Each is a plain function of bytes, which the crate under test
//! also runs as a property test on random input.

pub mod mqtt;
