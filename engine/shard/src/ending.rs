//! Why a connection has ended: whether its will is published, and what is told of it below `$SYS`.

use std::borrow::Cow;

use engine_mqtt::ReasonCode;

/// Why a connection has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// By the client's DISCONNECT.
    Left(ReasonCode),
    /// By this side, for this reason.
    Told(ReasonCode),
    /// The client is on another connection, which begins with a clean start.
    Discarded,
    /// The socket was closed.
    Lost,
}

impl Ending {
    /// The end by this side for `reason`.
    pub(crate) fn of(reason: Option<ReasonCode>, abnormal: bool) -> Self {
        match reason {
            Some(reason) => Self::Told(reason),
            None if abnormal => Self::Lost,
            None => Self::Left(ReasonCode::Success),
        }
    }

    /// Whether the will is published: always but after DISCONNECT with reason 0.
    pub(crate) fn is_abnormal(self) -> bool {
        self != Self::Left(ReasonCode::Success)
    }

    /// The name in events: EMQX's, where it has one.
    pub(crate) fn name(self) -> Cow<'static, str> {
        let reason = match self {
            Self::Left(ReasonCode::Success) => return "normal".into(),
            Self::Told(ReasonCode::SessionTakenOver) => return "takenover".into(),
            Self::Told(ReasonCode::KeepAliveTimeout) => return "keepalive_timeout".into(),
            Self::Told(ReasonCode::AdministrativeAction) => return "kicked".into(),
            Self::Discarded => return "discarded".into(),
            Self::Lost => return "tcp_closed".into(),
            Self::Left(reason) | Self::Told(reason) => reason,
        };
        reason.name().replace(' ', "_").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_disconnect_with_reason_0_is_normal() {
        let will = ReasonCode::DisconnectWithWillMessage;
        for (ending, name) in [
            (Ending::of(None, false), "normal"),
            (Ending::of(None, true), "tcp_closed"),
            (Ending::Left(will), "disconnect_with_will_message"),
            (Ending::Left(ReasonCode::QuotaExceeded), "quota_exceeded"),
            (Ending::Told(ReasonCode::ProtocolError), "protocol_error"),
            (
                Ending::Told(ReasonCode::ServerShuttingDown),
                "server_shutting_down",
            ),
            (Ending::Told(ReasonCode::SessionTakenOver), "takenover"),
            (Ending::Discarded, "discarded"),
        ] {
            assert_eq!(ending.name(), name);
            assert_eq!(ending.is_abnormal(), name != "normal", "{name}");
        }
    }
}
