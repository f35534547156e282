//! What a shard's machine needs from outside, and what it sends to its peers.
//!
//! The server and the simulator implement [`Store`] over the storage crates and carry
//! [`MeshBatch`]es between shards; the machine itself does no I/O and reads no clock.

use std::sync::Arc;

use engine_mqtt::QoS;
use engine_session::{Address, GroupLink, LogId, LogOffset, Message};
use engine_topic::RoutingTable;

use crate::output::Output;

/// A shard's index within its node, below the shard count (at most 64).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ShardId(pub u8);

impl ShardId {
    /// The shard as an index into per-shard tables.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A client connection, named by whoever drives the machine; never used twice in a boot. No two
/// that are there at one time have the same low 28 bits, which are small numbers: a table has as
/// many places.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// Its place in a table.
    pub(crate) const fn place(self) -> usize {
        (self.0 & 0xFFF_FFFF) as usize
    }
}

/// Names one queue in every log.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum QueueName {
    /// The device queue of one exact topic.
    Topic(Arc<str>),
    /// The service queue of one first topic level, which cloud applications consume.
    Service(Arc<str>),
    /// The filter queue of one wildcard filter.
    Filter(Arc<str>),
}

/// A queue's number within one log, given out by [`Store::queue`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueId(pub u64);

/// A table of the state store. The numbers are on disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Table {
    /// client id -> session.
    Session = 1,
    /// session id, filter -> subscription.
    Subscription = 2,
    /// session id -> progress: shared with the shard, or cursors and unacknowledged deliveries.
    Progress = 3,
    /// session id, address -> an outbound QoS 2 delivery's packet id and phase.
    Outbound = 4,
    /// session id, packet id -> an inbound QoS 2 publication that is not released.
    Inbound = 5,
    /// session id -> will.
    Will = 6,
    /// topic -> retained message, at the topic's owner.
    Retained = 7,
    /// queue name -> queue id. Written by the store itself.
    Queue = 8,
    /// (empty) -> the shard's positions.
    Positions = 9,
    /// when it is due, a number -> a delayed publication.
    Delayed = 10,
}

impl Table {
    /// The table with this number on disk.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Session),
            2 => Some(Self::Subscription),
            3 => Some(Self::Progress),
            4 => Some(Self::Outbound),
            5 => Some(Self::Inbound),
            6 => Some(Self::Will),
            7 => Some(Self::Retained),
            8 => Some(Self::Queue),
            9 => Some(Self::Positions),
            10 => Some(Self::Delayed),
            _ => None,
        }
    }
}

/// One change of the state store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The table.
    pub table: Table,
    /// The key, at most 65,535 bytes.
    pub key: Vec<u8>,
    /// The new value; `None` deletes the key.
    pub value: Option<Vec<u8>>,
}

/// A publication to be appended.
#[derive(Clone, Copy, Debug)]
pub struct NewMessage<'a> {
    /// The QoS it was published with.
    pub qos: QoS,
    /// Whether it replaces its topic's retained message.
    pub retain: bool,
    /// The publisher's session id.
    pub publisher: u64,
    /// The packet id it came with; 0 at QoS 0.
    pub packet_id: u16,
    /// Hybrid logical clock value: (wall ms << 16) | counter.
    pub stamp: u64,
    /// The queues that refer to it.
    pub queues: &'a [QueueId],
    /// The engine's message body (`engine_session::message` has the byte table).
    pub body: &'a [u8],
}

/// One record to append: a publication, changes of state, or both in one atomic record.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// The publication.
    pub message: Option<NewMessage<'a>>,
    /// The changes of state that become true with this record. They must reach the state store
    /// only when the record is durable.
    pub changes: &'a [Change],
}

/// Where a record was put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// The record's own offset.
    pub offset: LogOffset,
    /// The log's appended offset behind it: durable once the durable watermark is at or above.
    pub end: LogOffset,
}

/// Names an outstanding read; the answer brings it back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReadToken(pub u64);

/// A read of this shard's own log. Only what is below the durable watermark is ever returned.
#[derive(Clone, Debug)]
pub enum ReadRequest {
    /// The records at these offsets, in this order; `next` is unused.
    Fetch {
        /// Offsets of records of this log.
        offsets: Vec<LogOffset>,
    },
    /// The QoS 1/2 publications of these queues at or above `from` and below `upto`, merged by
    /// offset without duplicates, until `limit` messages (or about `bytes`) are found. `next` is
    /// where to go on: equal to `upto` when nothing remains. A queue this log does not have is
    /// empty.
    Pull {
        /// Which queues.
        queues: Arc<[QueueName]>,
        /// The first offset of interest.
        from: LogOffset,
        /// The first offset that is of no interest; at most the durable watermark.
        upto: LogOffset,
        /// The most messages to return; at least 1.
        limit: usize,
        /// About how many bytes of bodies to return at most; one message is always returned.
        bytes: usize,
    },
    /// The QoS 1/2 publications at or above `from` and below `upto` whose topics match one of these
    /// filters, as by `Pull`, but found by looking at every record; `next` may be earlier, so that
    /// one read does not take long.
    Sift {
        /// Topic filters, none of them shared.
        filters: Arc<[Arc<str>]>,
        /// The first offset of interest.
        from: LogOffset,
        /// The first offset that is of no interest; at most the durable watermark.
        upto: LogOffset,
        /// The most messages to return; at least 1.
        limit: usize,
        /// About how many bytes of bodies to return at most; one message is always returned.
        bytes: usize,
    },
    /// Where the first publication is whose stamp and offset are not lower: in `next`. The durable
    /// watermark when there is none.
    Seek {
        /// A hybrid logical clock value.
        stamp: u64,
        /// An offset, not necessarily of a record.
        from: LogOffset,
    },
    /// All QoS 1/2 publications (and QoS 0 ones with the retain flag) from `from` up to the durable
    /// watermark at the time of the read, at most about `bytes`. `next` is where to go on.
    Scan {
        /// The first offset of interest.
        from: LogOffset,
        /// About how many bytes of bodies to return at most; one message is always returned.
        bytes: usize,
    },
}

/// The answer to a [`ReadRequest`].
#[derive(Clone, Debug)]
pub struct ReadAnswer {
    /// In log order (`Fetch`: in the order asked). A record that is damaged or that retention has
    /// cut is left out and counted by the store.
    pub messages: Vec<Message>,
    /// Everything below this offset has been considered.
    pub next: LogOffset,
    /// Where the log begins now: of what was asked for, everything below is gone.
    pub start: LogOffset,
    /// This is a part: another answer to the same read follows, unless [`Store::cancel`] is called.
    /// Only to `Pull`.
    pub more: bool,
}

/// What the visitor of a [`Store::walk`] wants next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Walk {
    /// The next row.
    Next,
    /// The first row whose key is not below this one, which lies behind the row that was shown.
    Seek(Vec<u8>),
    /// No more rows.
    Stop,
}

/// The shard's own log, queues and state.
pub trait Store {
    /// The id of the log that this shard writes.
    fn log_id(&self) -> LogId;
    /// Where the next record will be put, or below.
    fn appended(&self) -> LogOffset;
    /// Everything below is on disk (as far as the durability mode promises) and visible.
    fn durable(&self) -> LogOffset;
    /// The disk is so full that publications are to be refused.
    fn refuses(&self) -> bool;
    /// Whether a publication with a body of so many bytes can be appended for so many queues:
    /// disk and log have room for it.
    fn has_room(&self, bytes: usize, queues: usize) -> bool;
    /// What follows from records of this log (of another shard, or this one), up to here, is on
    /// disk in this shard's state.
    fn applied_from(&self, log: LogId) -> LogOffset;
    /// Grows whenever a queue's id stops being good.
    fn queues_version(&self) -> u64;
    /// The log has no room: the driver must stop reading sockets until it has.
    fn is_full(&self) -> bool;
    /// The id of a queue, which is created when it does not exist. `None`: the cap on queues is
    /// reached.
    fn queue(&mut self, name: &QueueName) -> Option<QueueId>;
    /// Appends one record in memory; the driver commits at the end of the turn.
    fn append(&mut self, record: &NewRecord<'_>) -> Appended;
    /// A publication from the in-memory tail; always there for one that has just become durable.
    fn message(&self, at: LogOffset) -> Option<Message>;
    /// Takes a change of state that follows from a durable record of any log (a retained message,
    /// at its topic's owner): it goes to the state store, not to this shard's log. What is applied
    /// from a log up to which offset is told by `Shard::positions`.
    fn apply(&mut self, from: Address, change: Change);
    /// The first rows of a table of this shard's state in the order of their keys, with all that
    /// was appended, durable or not: at most `rows`, and none behind the one with which they have
    /// `bytes` of values. Blocks; empty when they can't be read, after which the driver ends.
    fn first_rows(&mut self, table: Table, rows: usize, bytes: usize) -> Vec<(Vec<u8>, Vec<u8>)>;
    /// The value of a key of this shard's state, with all that was appended, durable or not.
    /// Blocks; `None` when it can't be read, after which the driver ends.
    fn row(&mut self, table: Table, key: &[u8]) -> Option<Vec<u8>>;
    /// The first rows of each of these tables whose keys start with `prefix` and come behind
    /// `after`, in the order of their keys, `rows` at most: as the state store has them, which
    /// knows all records that end at or below [`Store::stored_upto`]. Blocks; empty when they can't
    /// be read, after which the driver ends.
    fn stored_rows(
        &mut self,
        tables: &[Table],
        prefix: &[u8],
        after: Option<&[u8]>,
        rows: usize,
    ) -> Vec<(Table, Vec<u8>, Vec<u8>)>;
    /// The changes in all records of this log that end at or below are in the state store.
    fn stored_upto(&self) -> LogOffset;
    /// Shows the keys and values of a table's rows as [`Self::row`] has them, in the order of their
    /// keys, from a key on, as long as `visit` wants them. Blocks; ends early when they can't be
    /// read, after which the driver ends.
    fn walk(&mut self, table: Table, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Walk);
    /// Starts a read; the driver passes the answer to `Shard::read_done`, in the same turn or
    /// later.
    fn read(&mut self, token: ReadToken, request: ReadRequest);
    /// Ends a read that has been answered in part: nobody wants the rest.
    fn cancel(&mut self, token: ReadToken);
}

/// A publication on its way to the shards with interest.
#[derive(Clone, Debug)]
pub struct Event {
    /// The publication.
    pub message: Message,
    /// Which filters it matched, per shard.
    pub route: Arc<Route>,
}

/// What routing one topic under one routing version gives; shared by all its events.
#[derive(Debug)]
pub struct Route {
    /// The routing version.
    pub version: u64,
    /// Filter ids with online subscribers, by shard; shards without any are absent.
    pub filters: Vec<(ShardId, Vec<engine_topic::FilterId>)>,
    /// The queues that get an entry in the publisher's log.
    pub queues: Vec<QueueId>,
    /// It is known that nobody has a subscription that matches, online or away.
    pub is_unheard: bool,
}

/// What one shard tells another. Everything from one shard to another travels on one FIFO.
#[derive(Clone, Debug)]
pub enum MeshMessage {
    /// To the writer of the routing table (shard 0): change these filters, then answer `Routed`.
    RouteChange {
        /// Brought back by the answer.
        request: u64,
        /// The changes, in order.
        changes: Vec<engine_topic::Change>,
    },
    /// From the writer: your changes are in this version.
    Routed {
        /// The request.
        request: u64,
        /// The routing version that has them.
        version: u64,
    },
    /// From the writer: adopt the batch's routing table now, and tell every shard.
    Adopt,
    /// "I route by this version since this offset of my log": the cut.
    Adopted {
        /// The version.
        version: u64,
        /// The sender's appended offset when it adopted the version.
        appended: LogOffset,
    },
    /// Publications in order. QoS 0 ones are not stored; the others lie below the batch's
    /// `durable`.
    Events(Vec<Event>),
    /// The sender's log is durable up to here, and every event below it has been sent.
    DurableUpTo(LogOffset),
    /// The lane was full and events were dropped: scan my log from your position.
    Collapsed {
        /// The sender's durable watermark.
        upto: LogOffset,
    },
    /// Answer to `Collapsed`: send all of your log's publications from here.
    Scan {
        /// The asking shard's position.
        from: LogOffset,
    },
    /// Answer to `Scan`.
    Scanned {
        /// Publications in log order.
        messages: Vec<Message>,
        /// The new position.
        next: LogOffset,
        /// Nothing durable is left out: events flow on this lane again from here.
        live: bool,
    },
    /// Read your log for one of my sessions.
    Read {
        /// Brought back by the answer.
        token: u64,
        /// What to read.
        request: ReadRequest,
    },
    /// Answer to `Read`.
    ReadAnswer {
        /// The token of the request.
        token: u64,
        /// The sender's own token of it, for `Cancel`.
        source: u64,
        /// What was found.
        answer: ReadAnswer,
    },
    /// What remains of a read, by its `source`, is of no interest.
    Cancel {
        /// As in the answer.
        source: u64,
    },
    /// This retained publication is for you, the topic's owner.
    Retain(Message),
    /// The owner has applied all retained publications of your log below this offset.
    RetainApplied {
        /// The first offset that it has not applied.
        upto: LogOffset,
        /// Publications that are not retained: there are as many as there may be.
        refused: Vec<LogOffset>,
    },
    /// The start of the sender's log is to move here: have you handled and stored all below?
    RetireAsk {
        /// The new start.
        upto: LogOffset,
    },
    /// Answer to `RetireAsk`: yes. It comes when it is true.
    RetireReady {
        /// The new start.
        upto: LogOffset,
    },
    /// Which of these retained publications are still the last ones of their topics, which you own?
    RetainedCheck {
        /// Brought back by the answer.
        token: u64,
        /// The publications.
        items: Vec<RetainedItem>,
    },
    /// Answer to `RetainedCheck`.
    RetainedChecked {
        /// The token of the request.
        token: u64,
        /// One for each publication, in order.
        current: Vec<bool>,
    },
    /// The sender's log has no record with a lower stamp any more.
    Retired {
        /// The stamp.
        oldest: u64,
    },
    /// Read retained messages that match a filter.
    RetainedRead(RetainedRead),
    /// Answer to `RetainedRead`.
    RetainedPage {
        /// The token of the request.
        token: u64,
        /// In topic order.
        messages: Vec<Message>,
        /// Where to go on, if more remain.
        more: Option<Arc<str>>,
    },
    /// About a shared group.
    Group(GroupMessage),
    /// About an exclusive subscription.
    Exclusive(ExclusiveMessage),
}

/// What the owner of a filter and the homes of sessions that want it for themselves tell each
/// other, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExclusiveMessage {
    /// To the owner: this session wants the filter for itself.
    Claim {
        /// Brought back by `Claimed`.
        request: u64,
        /// The filter, without `$exclusive/`.
        filter: Arc<str>,
        /// The session.
        session: u64,
    },
    /// Answer to `Claim`.
    Claimed {
        /// The request.
        request: u64,
        /// The filter.
        filter: Arc<str>,
        /// False: another session has it, or there are too many.
        accepted: bool,
    },
    /// To the owner: the session has given it up, and that is durable.
    Release {
        /// Brought back by `Released`; 0: none is wanted.
        request: u64,
        /// The filter.
        filter: Arc<str>,
        /// The session.
        session: u64,
    },
    /// Answer to `Release`.
    Released {
        /// The request.
        request: u64,
    },
    /// To every owner at the start: what the sender's durable sessions have of
    /// the owner's filters.
    Holders(Vec<(Arc<str>, u64)>),
}

/// What the owner of a shared group and the homes of its members tell each other, in order.
#[derive(Clone, Debug)]
pub enum GroupMessage {
    /// To the owner: this session subscribes. `Joined` comes when the group is durable.
    Join {
        /// Brought back by the answer.
        request: u64,
        /// The whole text of the subscription, with the share name.
        text: Arc<str>,
        /// The session.
        session: u64,
    },
    /// From the owner, to `Join` and to `Online`.
    Joined {
        /// The request.
        request: u64,
        /// The text.
        text: Arc<str>,
        /// False: a bound is reached, the session is no member.
        accepted: bool,
    },
    /// To the owner: the member takes records.
    Online {
        /// Brought back by a `Joined`; 0: none is wanted.
        request: u64,
        /// The text.
        text: Arc<str>,
        /// The member.
        session: u64,
        /// How many it may have in flight.
        limit: u16,
    },
    /// To the owner: the member takes no more records.
    Offline {
        /// The text.
        text: Arc<str>,
        /// The member.
        session: u64,
    },
    /// To the owner: the session is no member any more.
    Leave {
        /// The text.
        text: Arc<str>,
        /// The session.
        session: u64,
    },
    /// To every owner at the start: the sender's durable members of the owner's groups.
    Members(Vec<(Arc<str>, u64)>),
    /// To a home: a record for a member.
    Assign(Box<Assignment>),
    /// To a home after a crash: what became of this one? Without an answer, the member has it and
    /// will complete it.
    Inquire(Settled),
    /// To the owner: the member has received it.
    Done {
        /// The record.
        about: Settled,
        /// The home remembers that until it gets `Confirmed`.
        kept: bool,
    },
    /// To the owner: the member has not received it, and will not.
    Returned(Settled),
    /// To a home: that it is done is durable at the owner.
    Confirmed(Settled),
}

/// A group's record and the member that it was given to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settled {
    /// Where the group counts it; packet id 0: nowhere.
    pub link: GroupLink,
    /// The member.
    pub session: u64,
    /// The record.
    pub address: Address,
}

/// A record for a member of a group.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// Which and whose it is.
    pub about: Settled,
    /// The whole text of the member's subscription.
    pub text: Arc<str>,
    /// The record.
    pub message: Message,
}

/// A retained publication, or the delete of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetainedItem {
    /// Its topic.
    pub topic: Box<str>,
    /// Its stamp.
    pub stamp: u64,
}

/// A read of one owner's retained messages, to be served once the owner has applied every log up to
/// the cuts.
#[derive(Clone, Debug)]
pub struct RetainedRead {
    /// Brought back by the answer.
    pub token: u64,
    /// The filter.
    pub filter: Arc<str>,
    /// By log: a retained message at or above its log's cut is left out, its live record brings it.
    pub cuts: Arc<[LogOffset]>,
    /// Go on behind this topic.
    pub after: Option<Arc<str>>,
    /// The most messages to return.
    pub limit: usize,
}

/// What one shard sends to another in one turn.
#[derive(Clone, Debug)]
pub struct MeshBatch {
    /// The sender's routing table: the receiver adopts it first when it is newer than its own.
    pub routing: Arc<RoutingTable>,
    /// In order.
    pub messages: Vec<MeshMessage>,
}

/// Bytes for a client.
#[derive(Debug)]
pub struct Transmit {
    /// To whom.
    pub connection: ConnectionId,
    /// What to send, behind everything sent before. May be empty when only `close` is set.
    pub output: Output,
    /// Close the connection when the bytes are sent. The machine has forgotten it already: no
    /// `disconnected` must follow.
    pub close: bool,
}
