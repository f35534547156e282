//! The password file: who may connect, with what a password is checked against, not passwords.
//!
//! | line | is |
//! |---|---|
//! | first | `corelane users 1`: what it is and its version |
//! | others | `NAME:SCRAM-SHA-256$ITERATIONS:SALT$STORED:SERVER`, the three in base64 |
//!
//! STORED and SERVER are the keys of RFC 5802 and 7677: HMAC and SHA-256 of a password that PBKDF2
//! has salted. NAME holds no colon and no control character. Lines are in the order of names.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use aws_lc_rs::pbkdf2::{PBKDF2_HMAC_SHA256, derive};
use aws_lc_rs::{constant_time, rand};
use storage_io::{read_small_file, replace_small_file};

use crate::{base64, prepare};

/// Rounds of PBKDF2 of a new user: RFC 7677's least, as a fleet that comes back is checked one by
/// one.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();

/// Rounds that a file may ask for.
const ITERATIONS_MAX: u32 = 1_000_000;

/// The longest name and the longest password, bytes.
pub(crate) const NAME_BYTES_MAX: usize = 256;
pub(crate) const PASSWORD_BYTES_MAX: usize = 1024;

/// The largest file: about a million users.
const FILE_BYTES_MAX: usize = 256 << 20;

const HEADER: &str = "corelane users 1";
const MECHANISM: &str = "SCRAM-SHA-256";
const SALT_BYTES: usize = 16;
pub(crate) const HASH_BYTES: usize = 32;

/// Why a password file, a name or a password cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum UsersError {
    /// The file cannot be read or written.
    File(String),
    /// The first line is not that of this version.
    Header,
    /// This line is not as the module says.
    Line(usize),
    /// A name that is empty, too long, or has a colon or a control character.
    Name,
    /// A password that is empty or too long.
    Password,
    /// A name or password with a character that SASLprep prohibits.
    Prohibited,
    /// Nobody has this name.
    Unknown(String),
}

impl fmt::Display for UsersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(problem) => f.write_str(problem),
            Self::Header => write!(f, "the first line must be \"{HEADER}\""),
            Self::Line(number) => write!(f, "line {number} is not NAME:{MECHANISM}$..."),
            Self::Name => write!(
                f,
                "a user name has 1 to {NAME_BYTES_MAX} bytes without colons and control characters"
            ),
            Self::Password => write!(f, "a password has 1 to {PASSWORD_BYTES_MAX} bytes"),
            Self::Prohibited => f.write_str(
                "control characters, private ones, and mixed directions of writing cannot be in a \
                 name or password (RFC 4013)",
            ),
            Self::Unknown(name) => write!(f, "there is no user {name}"),
        }
    }
}

impl std::error::Error for UsersError {}

/// What a password is checked against.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Verifier {
    pub(crate) iterations: NonZeroU32,
    pub(crate) salt: Vec<u8>,
    pub(crate) stored: [u8; HASH_BYTES],
    pub(crate) server: [u8; HASH_BYTES],
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Verifier {
    pub(crate) fn new(password: &[u8], salt: Vec<u8>, iterations: NonZeroU32) -> Self {
        let mut salted = [0; HASH_BYTES];
        derive(PBKDF2_HMAC_SHA256, iterations, &salt, password, &mut salted);
        let key = Key::new(HMAC_SHA256, &salted);
        Self {
            iterations,
            salt,
            stored: bytes_of(digest(&SHA256, sign(&key, b"Client Key").as_ref()).as_ref()),
            server: bytes_of(sign(&key, b"Server Key").as_ref()),
        }
    }

    /// Of nobody: it looks like a user's, the same each time, and no password fits.
    fn nobody(name: &str, secret: &Key) -> Self {
        let hash =
            |what: &str| bytes_of(sign(secret, format!("{what}:{name}").as_bytes()).as_ref());
        Self {
            iterations: ITERATIONS,
            salt: hash("salt").get(..SALT_BYTES).unwrap_or_default().to_vec(),
            stored: hash("stored"),
            server: hash("server"),
        }
    }

    fn fits(&self, password: &[u8]) -> bool {
        let other = Self::new(password, self.salt.clone(), self.iterations);
        constant_time::verify_slices_are_equal(&self.stored, &other.stored).is_ok()
    }

    fn parse(text: &str) -> Option<Self> {
        let (mechanism, rest) = text.split_once('$')?;
        let (head, keys) = rest.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        let iterations = iterations.parse().ok().filter(|n| *n <= ITERATIONS_MAX)?;
        let key = |text| base64::decode(text)?.try_into().ok();
        (mechanism == MECHANISM).then_some(Self {
            iterations: NonZeroU32::new(iterations)?,
            salt: base64::decode(salt)?,
            stored: key(stored)?,
            server: key(server)?,
        })
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, stored) = (base64::encode(&self.salt), base64::encode(&self.stored));
        let server = base64::encode(&self.server);
        write!(
            f,
            "{MECHANISM}${}:{salt}${stored}:{server}",
            self.iterations
        )
    }
}

fn bytes_of(hash: &[u8]) -> [u8; HASH_BYTES] {
    let mut bytes = [0; HASH_BYTES];
    bytes.copy_from_slice(hash);
    bytes
}

/// Everybody in a password file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Users(BTreeMap<String, Verifier>);

impl Users {
    /// Reads a password file.
    ///
    /// # Errors
    /// It cannot be read, or a line is not as it should be.
    pub fn read(path: &Path) -> Result<Self, UsersError> {
        let bytes = read_small_file(path, FILE_BYTES_MAX)
            .map_err(|error| UsersError::File(error.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|_| UsersError::Header)?;
        Self::parse(&text)
    }

    /// Replaces a password file, which only its owner can read.
    ///
    /// # Errors
    /// It cannot be written; then the old one is still there.
    pub fn write(&self, path: &Path) -> Result<(), UsersError> {
        let mut text = format!("{HEADER}\n");
        for (name, verifier) in &self.0 {
            text.push_str(&format!("{name}:{verifier}\n"));
        }
        replace_small_file(path, text.as_bytes())
            .map_err(|error| UsersError::File(error.to_string()))
    }

    fn parse(text: &str) -> Result<Self, UsersError> {
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(UsersError::Header);
        }
        let mut users = BTreeMap::new();
        for (number, line) in (2..).zip(lines) {
            let entry = line.split_once(':').filter(|(name, _)| is_name(name));
            let entry = entry.and_then(|(name, text)| Some((name, Verifier::parse(text)?)));
            let (name, verifier) = entry.ok_or(UsersError::Line(number))?;
            if users.insert(name.to_owned(), verifier).is_some() {
                return Err(UsersError::Line(number));
            }
        }
        Ok(Self(users))
    }

    /// Adds a user, or gives one another password. Both are prepared by RFC 4013.
    ///
    /// # Errors
    /// A name or password that cannot be one, or no randomness.
    pub fn add(&mut self, name: &str, password: &[u8]) -> Result<(), UsersError> {
        if !is_name(name) {
            return Err(UsersError::Name);
        }
        let name = &prepare::name(name).ok_or(UsersError::Prohibited)?;
        if !is_name(name) {
            return Err(UsersError::Name);
        }
        let password = &*prepare::password(password).ok_or(UsersError::Prohibited)?;
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            return Err(UsersError::Password);
        }
        let mut salt = vec![0; SALT_BYTES];
        rand::fill(&mut salt).map_err(|_| UsersError::File("no randomness".to_owned()))?;
        let verifier = Verifier::new(password, salt, ITERATIONS);
        self.0.insert(name.to_owned(), verifier);
        Ok(())
    }

    /// Removes a user.
    ///
    /// # Errors
    /// Nobody has this name.
    pub fn remove(&mut self, name: &str) -> Result<(), UsersError> {
        let prepared = prepare::name(name).and_then(|prepared| self.0.remove(&prepared));
        let removed = prepared.or_else(|| self.0.remove(name));
        removed.map_or_else(|| Err(UsersError::Unknown(name.to_owned())), |_| Ok(()))
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What this user proves the password against; made up of `secret` for unknown names, in the
    /// same time.
    pub(crate) fn verifier(&self, name: &str, secret: &Key) -> Verifier {
        let nobody = Verifier::nobody(name, secret);
        self.0.get(name).cloned().unwrap_or(nobody)
    }

    /// Whether this is the user's password. Costs PBKDF2, milliseconds, also for unknown names.
    /// The password is prepared, the name has to be: rules are asked about what CONNECT says.
    pub(crate) fn verify(&self, name: &str, password: &[u8]) -> bool {
        let prepared = prepare::password(password);
        let password = prepared.as_deref().unwrap_or(password);
        match self.0.get(name) {
            Some(verifier) => verifier.fits(password),
            None => {
                let nobody = Verifier::new(password, vec![0; SALT_BYTES], ITERATIONS);
                // As long as for a known name; nobody's salted password is this.
                nobody.stored == [0; HASH_BYTES]
            }
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_long = name.is_empty() || name.len() > NAME_BYTES_MAX;
    !is_long && !name.contains(|c: char| c == ':' || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3: user `user`, password `pencil`.
    #[test]
    fn keys_are_those_of_the_standard() {
        let salt = base64::decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::new(b"pencil", salt, ITERATIONS);
        assert_eq!(
            verifier.to_string(),
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
             WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
             wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
        assert!(verifier.fits(b"pencil") && !verifier.fits(b"Pencil"));
        assert_eq!(Verifier::parse(&verifier.to_string()), Some(verifier));
    }

    #[test]
    fn a_file_brings_back_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let mut users = Users::default();
        users.add("b", b"second").unwrap();
        users.add("a", b"first").unwrap();
        users.write(&path).unwrap();
        let mut read = Users::read(&path).unwrap();
        assert_eq!(read, users);
        assert_eq!(read.names().collect::<Vec<_>>(), ["a", "b"]);
        assert!(read.verify("a", b"first") && !read.verify("a", b"second"));
        assert!(!read.verify("c", b"first"));
        read.remove("a").unwrap();
        assert_eq!(read.remove("a"), Err(UsersError::Unknown("a".to_owned())));
        assert!(!read.verify("a", b"first"));
    }

    #[test]
    fn names_and_passwords_are_prepared() {
        let mut users = Users::default();
        users.add("I\u{AD}X", "\u{2168}".as_bytes()).unwrap();
        assert_eq!(users.names().collect::<Vec<_>>(), ["IX"]);
        for password in ["IX", "\u{2168}", "I\u{AD}X"] {
            assert!(users.verify("IX", password.as_bytes()), "{password:?}");
            // Rules would be asked about another name.
            assert!(!users.verify("\u{2168}", password.as_bytes()));
        }
        assert!(!users.verify("IX", "IX\u{7}".as_bytes()));
        users.add("raw", b"\xFF\x00").unwrap();
        assert!(users.verify("raw", b"\xFF\x00"));
        users.remove("\u{2168}").unwrap();
        assert_eq!(users.names().collect::<Vec<_>>(), ["raw"]);
    }

    #[test]
    fn unknown_names_look_like_users() {
        let mut users = Users::default();
        users.add("a", b"first").unwrap();
        let secret = Key::new(HMAC_SHA256, &[7; 32]);
        let nobody = users.verifier("b", &secret);
        assert_eq!(nobody, users.verifier("b", &secret));
        assert_ne!(nobody.salt, users.verifier("c", &secret).salt);
        let known = users.verifier("a", &secret);
        assert_eq!(nobody.salt.len(), known.salt.len());
        assert_eq!(nobody.iterations, known.iterations);
        assert!(known.fits(b"first") && !nobody.fits(b"first"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(Users::parse("a:b"), Err(UsersError::Header));
        let line = |text: &str| Users::parse(&format!("{HEADER}\n{text}\n"));
        for bad in [
            "a",
            "a:plain",
            ":SCRAM-SHA-256$1:AA==$AA==:AA==",
            "a:SCRAM-SHA-256$0:AA==$AA==:AA==",
            "",
        ] {
            assert_eq!(line(bad), Err(UsersError::Line(2)), "{bad}");
        }
        let mut users = Users::default();
        assert_eq!(users.add("a:b", b"x"), Err(UsersError::Name));
        assert_eq!(users.add("", b"x"), Err(UsersError::Name));
        assert_eq!(users.add("a", b""), Err(UsersError::Password));
        for password in ["\u{7}", "\u{627}1", "\u{E000}"] {
            let added = users.add("a", password.as_bytes());
            assert_eq!(added, Err(UsersError::Prohibited));
        }
        assert_eq!(users.add("\u{627}1", b"x"), Err(UsersError::Prohibited));
        assert_eq!(users.add("\u{AD}", b"x"), Err(UsersError::Name));
        assert_eq!(
            users.add("a", "\u{AD}".as_bytes()),
            Err(UsersError::Password)
        );
        assert_eq!(
            users.add("a\u{FF1A}b", b"x"),
            Err(UsersError::Name),
            "a colon"
        );
    }

    #[test]
    fn mutated_files() {
        let verifier = |salt| Verifier::new(b"secret", vec![salt; SALT_BYTES], ITERATIONS);
        let (one, two) = (verifier(1), verifier(2));
        let samples = [
            format!("{HEADER}\n"),
            format!("{HEADER}\nann:{one}\n"),
            format!("{HEADER}\nann:{one}\nbob:{two}\n"),
        ];
        crate::mutate::fuzz(&samples.map(String::into_bytes), |bytes| {
            std::str::from_utf8(bytes).is_ok_and(|text| Users::parse(text).is_ok())
        });
    }
}
