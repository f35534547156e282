//! Tests of the codec through its public API, in one binary.

#[cfg(test)]
mod differential;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod model;
#[cfg(test)]
#[path = "../../../../tests/fuzz/mutate.rs"]
mod mutate;
#[cfg(test)]
mod partial;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod round_trip;

/// The bodies of the fuzz targets, which run here on random input too.
#[cfg(test)]
#[expect(unreachable_pub, reason = "public in the fuzz package")]
#[path = "../../../../tests/fuzz/src/mqtt.rs"]
mod fuzz_body;
