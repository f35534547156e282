//! Who writes the database: a thread of its own, or the caller.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::StateError;
use crate::database::{Batch, Database};

/// Starts a side thread that runs what it is given to its end.
pub type Spawn<'a> = dyn FnMut(Box<dyn FnOnce() + Send>) + 'a;

/// Between two looks whether the thread that writes waits for room.
const ANSWER_WAIT: Duration = Duration::from_millis(50);

/// Where the database is written.
pub enum Writing<'a> {
    /// By whoever calls `flush`, before it returns: simulations, tests, offline tools, replay.
    Inline,
    /// On a thread that the hook starts. The thread ends when the store is dropped.
    Background(&'a mut Spawn<'a>),
}

impl fmt::Debug for Writing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inline => "Inline",
            Self::Background(_) => "Background",
        })
    }
}

type Answer = Result<(), StateError>;

/// The writing half. At most one batch is under way.
#[derive(Debug)]
pub(crate) enum Writer {
    Inline,
    Background {
        batches: flume::Sender<Batch>,
        answers: flume::Receiver<Answer>,
    },
}

impl Writer {
    pub(crate) fn start(writing: Writing<'_>, database: &Arc<Database>) -> Self {
        match writing {
            Writing::Inline => Self::Inline,
            Writing::Background(spawn) => {
                let (batches, incoming) = flume::bounded::<Batch>(1);
                let (outgoing, answers) = flume::bounded(1);
                let database = Arc::clone(database);
                spawn(Box::new(move || {
                    write_batches(&database, &incoming, &outgoing)
                }));
                Self::Background { batches, answers }
            }
        }
    }

    /// Hands a batch over. `Some` when it is done already.
    pub(crate) fn hand(&self, database: &Database, batch: Batch) -> Option<Answer> {
        match self {
            Self::Inline => Some(database.write(&batch)),
            Self::Background { batches, .. } => match batches.try_send(batch) {
                Ok(()) => None,
                // One batch at a time fits the channel: only a thread that ended refuses it.
                Err(_) => Some(Err(StateError::WriterGone)),
            },
        }
    }

    /// What came of the batch under way, when it is known.
    pub(crate) fn answer(&self) -> Option<Answer> {
        let Self::Background { answers, .. } = self else {
            return None;
        };
        match answers.try_recv() {
            Ok(answer) => Some(answer),
            Err(flume::TryRecvError::Empty) => None,
            Err(flume::TryRecvError::Disconnected) => Some(Err(StateError::WriterGone)),
        }
    }

    /// As [`Writer::answer`], but stands still for some time until it is known.
    pub(crate) fn awaited_answer(&self) -> Option<Answer> {
        let Self::Background { answers, .. } = self else {
            return None;
        };
        match answers.recv_timeout(ANSWER_WAIT) {
            Ok(answer) => Some(answer),
            Err(flume::RecvTimeoutError::Timeout) => None,
            Err(flume::RecvTimeoutError::Disconnected) => Some(Err(StateError::WriterGone)),
        }
    }
}

/// The side thread: ends with the store, or at the first failure.
fn write_batches(
    database: &Database,
    batches: &flume::Receiver<Batch>,
    answers: &flume::Sender<Answer>,
) {
    database.room().allow_waiting();
    for batch in batches {
        let answer = match database.wait_for_room(&batch) {
            Ok(true) => database.write(&batch),
            Ok(false) => return,
            Err(error) => Err(error),
        };
        let failed = answer.is_err();
        if answers.send(answer).is_err() || failed {
            return;
        }
    }
}
