//! What topics and filters become: the tables `[[rewrite]]`.

use std::fmt;
use std::sync::Arc;

use engine_shard::{Rewrite, RewriteError, Rewrites};
use serde::Deserialize;

use crate::acl::ActionText;

/// Rules, at most: each packet that none applies to asks all of them.
const REWRITES_MAX: usize = 1_024;

/// What the file says of one rule.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RewriteSettings {
    #[serde(default)]
    action: ActionText,
    from: String,
    to: String,
}

/// Why the tables cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RewritesError {
    /// This one, counted from 1, is no rule.
    Rule(usize, RewriteError),
    /// So many are too many.
    Count(usize),
}

impl fmt::Display for RewritesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(number, error) => write!(f, "[[rewrite]] number {number}: {error}"),
            Self::Count(count) => write!(
                f,
                "there are {count} tables [[rewrite]] and may be {REWRITES_MAX}"
            ),
        }
    }
}

/// All rules of a file in its order; `None`: there are none.
pub(crate) fn finish(
    tables: Option<Vec<RewriteSettings>>,
) -> Result<Option<Arc<Rewrites>>, RewritesError> {
    let tables = tables.unwrap_or_default();
    if tables.len() > REWRITES_MAX {
        return Err(RewritesError::Count(tables.len()));
    }
    let mut rules = Vec::with_capacity(tables.len());
    for (number, table) in (1..).zip(tables) {
        let rule = Rewrite::new(table.action.action(), &table.from, &table.to);
        rules.push(rule.map_err(|error| RewritesError::Rule(number, error))?);
    }
    Ok((!rules.is_empty()).then(|| Arc::new(Rewrites::new(rules))))
}

#[cfg(test)]
mod tests {
    use engine_shard::{Action, Rewrite, Rewrites};

    use crate::Settings;

    #[test]
    fn rules_are_read_in_their_order() {
        let text = "[[rewrite]]\nfrom = 'a/+/%c'\nto = 'b/$1/%u'\n\
                    [[rewrite]]\naction = 'subscribe'\nfrom = 'c'\nto = 'd/#'\n";
        let config = Settings::from_toml(text).unwrap().finish().unwrap();
        let expected = Rewrites::new(vec![
            Rewrite::new(None, "a/+/%c", "b/$1/%u").unwrap(),
            Rewrite::new(Some(Action::Subscribe), "c", "d/#").unwrap(),
        ]);
        assert_eq!(config.rewrites.as_deref(), Some(&expected));
        let none = Settings::from_toml("").unwrap().finish().unwrap();
        assert_eq!(none.rewrites, None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        #[track_caller]
        fn check(rule: &str, place: &str, problem: &str) {
            let text = format!("[[rewrite]]\nfrom = 'x'\nto = 'y'\n[[rewrite]]\n{rule}");
            let read = Settings::from_toml(&text).and_then(Settings::finish);
            let error = read.unwrap_err().to_string();
            assert!(error.contains(place) && error.contains(problem), "{error}");
        }
        let second = "[[rewrite]] number 2";
        check("from = 'a+'\nto = 'b'", second, "from is \"a+\"");
        check("from = 'a/+'\nto = 'b/$2'", second, "$2");
        check("from = 'a'\nto = 'b/#'", second, "to is \"b/#\"");
        check("from = 'a'", "line 4", "`to`");
        check("form = 'a'\nto = 'b'", "line 5", "`form`");
        check("action = 'both'\nfrom = 'a'\nto = 'b'", "line 5", "`both`");
    }

    #[test]
    fn rules_are_bounded() {
        let text = |count| "[[rewrite]]\nfrom = 'a'\nto = 'b'\n".repeat(count);
        let finish = |count| Settings::from_toml(&text(count)).unwrap().finish();
        assert!(finish(super::REWRITES_MAX).is_ok());
        let error = finish(super::REWRITES_MAX + 1).unwrap_err().to_string();
        assert!(
            error.contains("1025 tables") && error.contains("[[rewrite]]"),
            "{error}"
        );
    }
}
