//! Topics with places: `%c` for the client id, `%u` for the user's name, `$1` for the first part of
//! what a pattern has matched.

use crate::rewrite::Parts;
use crate::rules::Who;

/// A piece of a level.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Text(Box<str>),
    User,
    Client,
    /// Counted from 0.
    Part(usize),
}

/// A part that is not there; a number too large to be read is `usize::MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TemplateError {
    pub(crate) number: usize,
}

/// See the module: its levels. A `%` or `$` before anything else stands for itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Template(Vec<Vec<Piece>>);

impl Template {
    /// Reads it; so many parts of a match can be named.
    pub(crate) fn parse(text: &str, parts: usize) -> Result<Self, TemplateError> {
        let levels = text.split('/').map(|level| pieces(level, Some(parts)));
        levels.collect::<Result<_, _>>().map(Self)
    }

    /// Reads one in which nothing is a part.
    pub(crate) fn without_parts(text: &str) -> Self {
        let levels = text.split('/').map(|level| pieces(level, None));
        // Only parts can be wrong.
        Self(levels.collect::<Result<_, _>>().unwrap_or_default())
    }

    /// The text. A level that is a part alone is left out when that is nothing. `None`: the client
    /// or its user has no name that fits into one level.
    pub(crate) fn fill(&self, who: &Who<'_>, parts: &Parts<'_>) -> Option<String> {
        let mut text = String::new();
        let mut is_first = true;
        for level in &self.0 {
            if let [Piece::Part(number)] = level.as_slice()
                && parts.get(*number).copied().flatten().is_none()
            {
                continue;
            }
            if !is_first {
                text.push('/');
            }
            is_first = false;
            for piece in level {
                text.push_str(match piece {
                    Piece::Text(own) => own,
                    Piece::User => who.user.filter(|name| is_level(name))?,
                    Piece::Client => Some(who.client).filter(|name| is_level(name))?,
                    Piece::Part(number) => parts.get(*number).copied().flatten().unwrap_or(""),
                });
            }
        }
        Some(text)
    }
}

/// Whether a name can stand in one level of a topic.
fn is_level(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '+', '#'])
}

fn pieces(level: &str, parts: Option<usize>) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = level;
    let mut text = String::new();
    while let Some(sign) = rest.chars().next() {
        let (own, behind) = rest.split_at(sign.len_utf8());
        let place = match sign {
            '%' => name(behind),
            '$' => parts.map_or(Ok(None), |parts| part(behind, parts))?,
            _ => None,
        };
        if let Some((piece, len)) = place {
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text).into()));
            }
            pieces.push(piece);
            rest = behind.get(len..).unwrap_or_default();
        } else {
            text.push_str(own);
            rest = behind;
        }
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text.into()));
    }
    Ok(pieces)
}

/// What follows a `%`, and its bytes.
fn name(text: &str) -> Option<(Piece, usize)> {
    match text.as_bytes().first()? {
        b'u' => Some((Piece::User, 1)),
        b'c' => Some((Piece::Client, 1)),
        _ => None,
    }
}

/// What follows a `$`, and its bytes.
fn part(text: &str, parts: usize) -> Result<Option<(Piece, usize)>, TemplateError> {
    let len = text.bytes().take_while(u8::is_ascii_digit).count();
    let digits = text.get(..len).filter(|digits| !digits.is_empty());
    let Some(digits) = digits else {
        return Ok(None);
    };
    let number = digits.parse().unwrap_or(usize::MAX);
    if !(1..=parts).contains(&number) {
        return Err(TemplateError { number });
    }
    Ok(Some((Piece::Part(number - 1), len)))
}
