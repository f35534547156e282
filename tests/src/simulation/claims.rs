//! Exclusive subscriptions: in some runs clients ask for the same filter, which one session has at
//! most, and give it up. Nobody publishes to it, so the history has nothing to do with it.

use engine_shard::Census;

/// What they subscribe to.
pub(super) const FILTER: &str = "$exclusive/x";
/// The filter in it, under which it is stored.
pub(super) const STORED: &str = "x";

/// Whether the session has the subscription, as its client knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Held {
    No,
    /// Something was asked for, and the connection or the node has ended before the answer.
    Perhaps,
    Yes,
}

/// What one client knows about it.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) takes_part: bool,
    held: Held,
    /// The packet under way, and whether it is a SUBSCRIBE.
    request: Option<(u16, bool)>,
}

impl Claim {
    pub(super) const NONE: Self = Self {
        takes_part: false,
        held: Held::No,
        request: None,
    };

    pub(super) const fn is_quiet(&self) -> bool {
        self.request.is_none()
    }

    /// SUBSCRIBE or UNSUBSCRIBE is sent.
    pub(super) fn asks(&mut self, packet_id: u16, subscribes: bool) {
        self.request = Some((packet_id, subscribes));
        if self.held != Held::Yes || !subscribes {
            self.held = Held::Perhaps;
        }
    }

    /// A SUBACK with this code; `None`: it is about something else.
    pub(super) fn suback(&mut self, packet_id: u16, code: u8) -> Option<Result<(), String>> {
        self.request.take_if(|one| *one == (packet_id, true))?;
        let is_refused = matches!(code, 0x80 | 0x97);
        if is_refused && self.held == Held::Yes {
            return Some(Err("was refused what it has for itself".to_owned()));
        }
        self.held = if is_refused { Held::No } else { Held::Yes };
        Some(if is_refused || code == 1 {
            Ok(())
        } else {
            Err(format!("asked for {FILTER} 1, got {code}"))
        })
    }

    pub(super) fn unsuback(&mut self, packet_id: u16) {
        if self
            .request
            .take_if(|one| *one == (packet_id, false))
            .is_some()
        {
            self.held = Held::No;
        }
    }

    /// CONNECT wants a new session.
    pub(super) fn starts_clean(&mut self) {
        if self.held == Held::Yes {
            self.held = Held::Perhaps;
        }
    }

    /// CONNACK has no session, or the session has ended with its connection.
    pub(super) const fn is_over(&mut self) {
        self.held = Held::No;
    }

    pub(super) const fn disconnected(&mut self) {
        self.request = None;
    }

    /// Whether the state store agrees.
    pub(super) fn check(&self, is_stored: bool) -> Result<(), String> {
        match (self.held, is_stored) {
            (Held::Yes, false) => Err(format!("leak: {FILTER} is lost, its client has it")),
            (Held::No, true) => Err(format!(
                "leak: {FILTER} is left, its client has given it up"
            )),
            (Held::Yes, true) | (Held::No, false) | (Held::Perhaps, _) => Ok(()),
        }
    }
}

/// At any moment: no two sessions have it.
pub(super) fn check_one_holder(censuses: &[Census]) -> Result<(), String> {
    let held: usize = censuses.iter().map(|one| one.exclusive_subscriptions).sum();
    if held < 2 {
        return Ok(());
    }
    Err(format!(
        "claim: {held} sessions have {FILTER} for themselves"
    ))
}

/// At rest: its owner knows what the sessions have.
pub(super) fn check_owners(censuses: &[Census]) -> Result<(), String> {
    let held: usize = censuses.iter().map(|one| one.exclusive_subscriptions).sum();
    let known: usize = censuses.iter().map(|one| one.exclusive_filters).sum();
    if held == known {
        return Ok(());
    }
    Err(format!(
        "claim: {held} sessions have {FILTER}, {known} are known to its owner"
    ))
}
