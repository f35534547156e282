//! The store against a model, with crashes at every operation of the device.

mod damage;
mod fuse;
mod model;
