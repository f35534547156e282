//! The index against a model that keeps everything in vectors.

mod damage;
mod formats;
mod gates;
mod hostile;
mod inspect;
mod join;
mod log;
mod model;
