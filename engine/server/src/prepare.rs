//! SASLprep of RFC 4013: names and passwords that look alike become the same bytes.

use std::borrow::Cow;

use stringprep::saslprep;

/// The name as it is in the password file; `None`: it has a character that is prohibited.
pub(crate) fn name(text: &str) -> Option<String> {
    saslprep(text).ok().map(Cow::into_owned)
}

/// The password as keys are made of it; `None`: it is a text with a character that is prohibited.
/// Of one that is no text, which a CONNECT may bring, its bytes count.
pub(crate) fn password(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    let Ok(text) = str::from_utf8(bytes) else {
        return Some(bytes.into());
    };
    Some(match saslprep(text).ok()? {
        Cow::Borrowed(text) => text.as_bytes().into(),
        Cow::Owned(text) => text.into_bytes().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 4013, section 3, and one of each kind that is prohibited.
    #[test]
    fn texts_are_prepared_as_the_standard_says() {
        for (text, expected) in [
            ("I\u{AD}X", Some("IX")),
            ("user", Some("user")),
            ("USER", Some("USER")),
            ("\u{AA}", Some("a")),
            ("\u{2168}", Some("IX")),
            ("\u{7}", None),
            ("\u{627}1", None),
            ("a\u{A0}b", Some("a b")),
            ("e\u{301}", Some("\u{E9}")),
            ("\u{E000}", None),
            ("\u{FDD0}", None),
            ("\u{FFFD}", None),
            ("\u{200E}", None),
            ("\u{E0001}", None),
            ("\u{85}", None),
        ] {
            assert_eq!(name(text).as_deref(), expected, "{text:?}");
            let bytes = password(text.as_bytes());
            assert_eq!(bytes.as_deref(), expected.map(str::as_bytes), "{text:?}");
        }
        assert_eq!(
            password(b"\xFF\x00").as_deref(),
            Some(b"\xFF\x00".as_slice())
        );
    }
}
