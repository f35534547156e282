//! The log on a simulated disk: models, crashes, damage, golden bytes.

mod golden;
mod hostile;
mod large;
mod model;
mod reading;
mod real;
mod recovery;
mod retire;
mod rig;
mod writing;
