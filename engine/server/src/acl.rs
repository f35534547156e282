//! The file of rules: who may publish and subscribe to what. TOML, read again at SIGHUP.

use std::fmt;
use std::path::Path;

use engine_shard::{Action, Network, Pattern, Rule, Rules};
use serde::Deserialize;
use storage_io::read_small_file;

/// The largest file.
const FILE_BYTES_MAX: usize = 4 << 20;

/// Why a file of rules cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AclError {
    /// It cannot be read.
    File(String),
    /// It is not TOML, or has an unknown key or a bad value.
    Toml(String),
    /// This rule, counted from 1, has an address that is none.
    Address(usize, String),
    /// This rule has a topic that is none.
    Topic(usize, String),
}

impl fmt::Display for AclError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(problem) => f.write_str(problem),
            Self::Toml(problem) => f.write_str(problem.trim_end()),
            Self::Address(number, text) => write!(
                f,
                "rule {number}: address \"{text}\" must be an IP address, or one with /BITS"
            ),
            Self::Topic(number, text) => write!(
                f,
                "rule {number}: \"{text}\" is no topic filter, or that of a shared subscription"
            ),
        }
    }
}

impl std::error::Error for AclError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileText {
    #[serde(default)]
    otherwise: Permission,
    #[serde(default)]
    rule: Vec<RuleText>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Permission {
    #[default]
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RuleText {
    permission: Permission,
    user: Option<String>,
    client: Option<String>,
    address: Option<String>,
    #[serde(default)]
    action: ActionText,
    topics: Option<Vec<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ActionText {
    Publish,
    Subscribe,
    #[default]
    All,
}

impl ActionText {
    /// `None`: all.
    pub(crate) const fn action(self) -> Option<Action> {
        match self {
            Self::Publish => Some(Action::Publish),
            Self::Subscribe => Some(Action::Subscribe),
            Self::All => None,
        }
    }
}

/// Reads a file of rules.
pub(crate) fn read(path: &Path) -> Result<Rules, AclError> {
    let bytes = read_small_file(path, FILE_BYTES_MAX);
    let bytes = bytes.map_err(|error| AclError::File(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|error| AclError::Toml(error.to_string()))?;
    parse(&text)
}

fn parse(text: &str) -> Result<Rules, AclError> {
    let file: FileText = toml::from_str(text).map_err(|error| AclError::Toml(error.to_string()))?;
    let rules = file.rule.into_iter().zip(1..);
    Ok(Rules {
        rules: rules
            .map(|(text, number)| rule(text, number))
            .collect::<Result<_, _>>()?,
        otherwise_allows: file.otherwise == Permission::Allow,
    })
}

fn rule(text: RuleText, number: usize) -> Result<Rule, AclError> {
    let address = text.address.map(|text| {
        let network = Network::parse(&text);
        network.ok_or(AclError::Address(number, text))
    });
    let mut topics = Vec::new();
    let is_for_none = text.topics.as_ref().is_some_and(Vec::is_empty);
    if is_for_none {
        return Err(AclError::Topic(number, String::new()));
    }
    for topic in text.topics.unwrap_or_default() {
        let pattern = Pattern::parse(&topic);
        topics.push(pattern.ok_or(AclError::Topic(number, topic))?);
    }
    Ok(Rule {
        allows: text.permission == Permission::Allow,
        user: text.user,
        client: text.client,
        address: address.transpose()?,
        action: text.action.action(),
        topics,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_in_its_order() {
        let rules = parse(
            "otherwise = 'deny'\n\
             [[rule]]\npermission = 'deny'\nuser = 'a'\nclient = 'b'\naddress = '::1'\n\
             action = 'publish'\ntopics = ['x/%c', 'y/#']\n\
             [[rule]]\npermission = 'allow'\n",
        );
        let expected = Rule {
            allows: false,
            user: Some("a".to_owned()),
            client: Some("b".to_owned()),
            address: Network::parse("::1"),
            action: Some(Action::Publish),
            topics: ["x/%c", "y/#"]
                .map(|text| Pattern::parse(text).unwrap())
                .to_vec(),
        };
        let rules = rules.unwrap();
        assert!(!rules.otherwise_allows);
        assert_eq!(rules.rules.len(), 2);
        assert_eq!(rules.rules[0], expected);
        assert!(rules.rules[1].allows && rules.rules[1].topics.is_empty());
        assert!(parse("").unwrap().otherwise_allows);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let rule = |more: &str| parse(&format!("[[rule]]\npermission = 'deny'\n{more}\n"));
        let address = AclError::Address(1, "x".to_owned());
        assert_eq!(rule("address = 'x'"), Err(address));
        assert_eq!(
            rule("topics = ['a+']"),
            Err(AclError::Topic(1, "a+".to_owned()))
        );
        assert_eq!(rule("topics = []"), Err(AclError::Topic(1, String::new())));
        for bad in ["topic = ['a']", "action = 'both'", "[[rule]]\nuser = 'a'"] {
            assert!(matches!(rule(bad), Err(AclError::Toml(_))), "{bad}");
        }
    }

    #[test]
    fn mutated_files() {
        let samples = [
            "otherwise = 'deny'\n[[rule]]\npermission = 'allow'\nuser = 'a'\nclient = 'b'\n\
             address = '2001:db8::/32'\naction = 'publish'\ntopics = ['x/%c/+', 'y/%u/#']\n",
            "[[rule]]\npermission = 'deny'\naddress = '192.0.2.0/24'\n[[rule]]\n\
             permission = 'allow'\naction = 'subscribe'\n",
        ];
        let samples = samples.map(|text| text.as_bytes().to_vec());
        crate::mutate::fuzz(&samples, |bytes| {
            std::str::from_utf8(bytes).is_ok_and(|text| parse(text).is_ok())
        });
    }
}
