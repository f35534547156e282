//! What every client is subscribed to: the tables `[[auto-subscribe]]`.

use std::fmt;
use std::sync::Arc;

use engine_mqtt::{QoS, RetainHandling, SubscriptionOptions};
use engine_shard::{AutoSubscription, AutoSubscriptionError};
use serde::Deserialize;

/// Tables, at most: every CONNECT makes all of these subscriptions.
const AUTO_SUBSCRIPTIONS_MAX: usize = 64;

/// What the file says of one subscription.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AutoSubscriptionSettings {
    filter: String,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    no_local: bool,
    #[serde(default)]
    retain_as_published: bool,
    #[serde(default)]
    retain_handling: u8,
}

/// Why the tables cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AutoSubscriptionsError {
    /// This one, counted from 1, can't be had.
    Subscription(usize, AutoSubscriptionError),
    /// In this one the key has a number that is none of 0, 1 and 2.
    Number(usize, &'static str, u8),
    /// So many are too many.
    Count(usize),
}

impl fmt::Display for AutoSubscriptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subscription(number, error) => {
                write!(f, "[[auto-subscribe]] number {number}: {error}")
            }
            Self::Number(number, key, value) => write!(
                f,
                "[[auto-subscribe]] number {number}: {key} is {value} but must be from 0 to 2"
            ),
            Self::Count(count) => write!(
                f,
                "there are {count} tables [[auto-subscribe]] and may be {AUTO_SUBSCRIPTIONS_MAX}"
            ),
        }
    }
}

/// What is published to one client (RocketMQ's MQTT proxy subscribes all its sessions to a queue
/// of this kind). Its level before `p2p` may be empty, and levels may follow the id.
fn p2p() -> AutoSubscriptionSettings {
    AutoSubscriptionSettings {
        filter: "+/p2p/%c/#".to_owned(),
        qos: QoS::ExactlyOnce as u8,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::SendIfNew as u8,
    }
}

/// All of a file in its order, and that of `p2p` behind them; `None`: there are none.
pub(crate) fn finish(
    tables: Option<Vec<AutoSubscriptionSettings>>,
    has_p2p: Option<bool>,
) -> Result<Option<Arc<[AutoSubscription]>>, AutoSubscriptionsError> {
    let tables = tables.unwrap_or_default();
    if tables.len() > AUTO_SUBSCRIPTIONS_MAX {
        return Err(AutoSubscriptionsError::Count(tables.len()));
    }
    let p2p = has_p2p.unwrap_or(false).then(p2p);
    let all = (1..)
        .zip(tables.into_iter().chain(p2p))
        .map(|(number, table)| one(number, &table));
    let all: Vec<_> = all.collect::<Result<_, _>>()?;
    Ok((!all.is_empty()).then(|| all.into()))
}

fn one(
    number: usize,
    table: &AutoSubscriptionSettings,
) -> Result<AutoSubscription, AutoSubscriptionsError> {
    let wrong = |key, value| AutoSubscriptionsError::Number(number, key, value);
    let handling = RetainHandling::from_bits(table.retain_handling);
    let options = SubscriptionOptions {
        qos: QoS::from_bits(table.qos).ok_or_else(|| wrong("qos", table.qos))?,
        no_local: table.no_local,
        retain_as_published: table.retain_as_published,
        retain_handling: handling.ok_or_else(|| wrong("retain-handling", table.retain_handling))?,
    };
    AutoSubscription::new(&table.filter, options)
        .map_err(|error| AutoSubscriptionsError::Subscription(number, error))
}

#[cfg(test)]
mod tests {
    use engine_mqtt::{QoS, RetainHandling, SubscriptionOptions};
    use engine_shard::AutoSubscription;

    use crate::Settings;

    #[test]
    fn tables_are_read_in_their_order() {
        let text = "[[auto-subscribe]]\nfilter = 'a/%c'\n\
                    [[auto-subscribe]]\nfilter = 'b/#'\nqos = 2\nno-local = true\n\
                    retain-as-published = true\nretain-handling = 1\n";
        let config = Settings::from_toml(text).unwrap().finish().unwrap();
        let second = SubscriptionOptions {
            qos: QoS::ExactlyOnce,
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::SendIfNew,
        };
        let expected = [
            AutoSubscription::new("a/%c", SubscriptionOptions::default()).unwrap(),
            AutoSubscription::new("b/#", second).unwrap(),
        ];
        assert_eq!(config.auto_subscriptions.as_deref(), Some(&expected[..]));
        let none = Settings::from_toml("").unwrap().finish().unwrap();
        assert_eq!(none.auto_subscriptions, None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        #[track_caller]
        fn check(table: &str, place: &str, problem: &str) {
            let text = format!("[[auto-subscribe]]\nfilter = 'x'\n[[auto-subscribe]]\n{table}");
            let read = Settings::from_toml(&text).and_then(Settings::finish);
            let error = read.unwrap_err().to_string();
            assert!(error.contains(place) && error.contains(problem), "{error}");
        }
        let second = "[[auto-subscribe]] number 2";
        check("filter = 'a+'", second, "filter is \"a+\"");
        check("filter = 'a'\nqos = 3", second, "qos is 3");
        check(
            "filter = 'a'\nretain-handling = 3",
            second,
            "retain-handling is 3",
        );
        check("filter = '$share/g/a'\nno-local = true", second, "no-local");
        check("qos = 1", "line 3", "`filter`");
        check("filter = 'a'\nnl = true", "line 5", "`nl`");
    }

    #[test]
    fn p2p_is_one_more() {
        let read = |text: &str| Settings::from_toml(text).unwrap().finish().unwrap();
        let count = |text: &str| read(text).auto_subscriptions.map_or(0, |all| all.len());
        assert_eq!(count("p2p = true"), 1);
        assert_eq!(count("p2p = true\n[[auto-subscribe]]\nfilter = 'a'\n"), 2);
        assert_eq!(count("p2p = false\n[[auto-subscribe]]\nfilter = 'a'\n"), 1);
        assert!(Settings::from_toml("p2p = 1").is_err());
    }

    #[test]
    fn tables_are_bounded() {
        let text = |count| "[[auto-subscribe]]\nfilter = 'a'\n".repeat(count);
        let finish = |count| Settings::from_toml(&text(count)).unwrap().finish();
        assert!(finish(super::AUTO_SUBSCRIPTIONS_MAX).is_ok());
        let error = finish(super::AUTO_SUBSCRIPTIONS_MAX + 1)
            .unwrap_err()
            .to_string();
        assert!(error.contains("65 tables [[auto-subscribe]]"), "{error}");
    }
}
