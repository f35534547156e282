//! The index against a model that keeps everything in vectors.

mod damage;
mod formats;
mod gates;
mod inspect;
mod join;
mod log;
mod model;
