//! One client's session as a pure machine: what it subscribed to, what is in flight to it, which
//! inbound QoS 2 packet ids are open, where it stands in every log, and how all of that is stored.
//!
//! It does no I/O and reads no clock. `engine/shard` feeds it and acts on what it answers.

mod address;
mod message;
mod progress;
mod rare_set;
mod session;
mod subscription;
mod will;
mod window;
pub mod wire;

pub use address::{Address, LogId, LogOffset, Now};
pub use message::{Body, BodyError, Message, NO_EXPIRY};
pub use progress::{Behind, Place, Progress};
pub use rare_set::RareSet;
pub use session::{NEVER, Session, SessionRecord, SharedDone};
pub use subscription::{Grant, Ids, Replay, Subscription, Subscriptions, is_wildcard};
pub use will::Will;
pub use window::{Delivery, GroupLink, Opening, Phase, Window};
