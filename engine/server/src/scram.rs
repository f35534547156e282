//! SCRAM-SHA-256 of RFC 5802 and 7677 as a machine: texts in, texts out. Without channel binding.
//!
//! | who | says |
//! |---|---|
//! | client | `n,,n=NAME,r=NONCE` |
//! | server | `r=NONCE and more,s=SALT,i=ITERATIONS` |
//! | client | `c=biws,r=NONCE and more,p=PROOF` |
//! | server | `v=SIGNATURE` |
//!
//! Names are prepared by RFC 4013, as those of the password file are. A client that could bind a
//! channel and thinks that the server cannot says `y,,` in place of `n,,`: it is right, as
//! SCRAM-SHA-256-PLUS is not offered. In the end it has to say the same again, so that nobody
//! between them has changed it.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};

use crate::users::{HASH_BYTES, NAME_BYTES_MAX, Verifier};
use crate::{base64, prepare};

/// The name of the method, as clients say it in CONNECT.
pub(crate) const METHOD: &str = "SCRAM-SHA-256";

/// The longest text of a client, bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// The client's first message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ClientFirst {
    name: String,
    nonce: String,
    /// Up to the second comma, which is said again in the end.
    header: String,
    /// Behind it.
    bare: String,
}

impl ClientFirst {
    /// Whether it insists on channel binding, which is not here.
    pub(crate) fn binds(data: &[u8]) -> bool {
        data.starts_with(b"p=")
    }

    /// Reads it; `None` when it is none, or asks for what is not here: channel binding, an identity
    /// to act as, or an extension.
    pub(crate) fn parse(data: &[u8]) -> Option<Self> {
        let text = text_of(data)?;
        let header = text
            .get(..3)
            .filter(|header| matches!(*header, "n,," | "y,,"))?;
        let bare = text.get(3..)?;
        let mut parts = bare.split(',');
        let name = unescape(parts.next()?.strip_prefix("n=")?)?;
        let nonce = parts.next()?.strip_prefix("r=")?;
        let is_printable = nonce.bytes().all(|byte| byte.is_ascii_graphic());
        (is_printable && !nonce.is_empty()).then(|| Self {
            name,
            nonce: nonce.to_owned(),
            header: header.to_owned(),
            bare: bare.to_owned(),
        })
    }

    /// Who it says it is.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// An exchange whose server-first message is made.
#[derive(Debug)]
pub(crate) struct Exchange {
    first: ClientFirst,
    server_first: String,
    /// The client's nonce with ours behind it.
    nonce: String,
    verifier: Verifier,
}

impl Exchange {
    /// Goes on with a nonce of our own: printable, without a comma, and never used before.
    pub(crate) fn new(first: ClientFirst, verifier: Verifier, server_nonce: &str) -> Self {
        let nonce = format!("{}{server_nonce}", first.nonce);
        let salt = base64::encode(&verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", verifier.iterations);
        Self {
            first,
            server_first,
            nonce,
            verifier,
        }
    }

    /// What the client gets first.
    pub(crate) fn server_first(&self) -> &[u8] {
        self.server_first.as_bytes()
    }

    /// Who says that it is this.
    pub(crate) fn name(&self) -> &str {
        self.first.name()
    }

    /// Checks the client's final message; the server-final message when it proves the password.
    pub(crate) fn finish(&self, data: &[u8]) -> Option<Vec<u8>> {
        let (unproved, proof) = text_of(data)?.rsplit_once(",p=")?;
        let mut parts = unproved.split(',');
        let header = base64::decode(parts.next()?.strip_prefix("c=")?)?;
        let nonce = parts.next()?.strip_prefix("r=")?;
        if header != self.first.header.as_bytes() || nonce != self.nonce {
            return None;
        }
        let said = format!("{},{},{unproved}", self.first.bare, self.server_first);
        let proof: [u8; HASH_BYTES] = base64::decode(proof)?.try_into().ok()?;
        let signature = sign(&hmac(&self.verifier.stored), said.as_bytes());
        let mut client_key = proof;
        let masks = signature.as_ref().iter();
        client_key
            .iter_mut()
            .zip(masks)
            .for_each(|(to, mask)| *to ^= *mask);
        let stored = digest(&SHA256, &client_key);
        verify_slices_are_equal(stored.as_ref(), &self.verifier.stored).ok()?;
        let signature = sign(&hmac(&self.verifier.server), said.as_bytes());
        Some(format!("v={}", base64::encode(signature.as_ref())).into_bytes())
    }
}

fn hmac(key: &[u8]) -> Key {
    Key::new(HMAC_SHA256, key)
}

fn text_of(data: &[u8]) -> Option<&str> {
    let data = Some(data).filter(|data| data.len() <= TEXT_BYTES_MAX)?;
    std::str::from_utf8(data).ok()
}

/// A name in which `=2C` is a comma and `=3D` an equals sign; others are none. Prepared.
fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (sign, rest) = part.split_at_checked(2)?;
        name.push(match sign {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        name.push_str(rest);
    }
    let is_short = |name: &String| (1..=NAME_BYTES_MAX).contains(&name.len());
    let name = Some(name).filter(is_short)?;
    prepare::name(&name).filter(is_short)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::pbkdf2::{PBKDF2_HMAC_SHA256, derive};

    use super::*;

    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    /// The example of RFC 7677, section 3: user `user`, password `pencil`.
    fn example() -> Exchange {
        let salt = base64::decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::new(b"pencil", salt, 4096.try_into().unwrap());
        Exchange::new(
            ClientFirst::parse(FIRST.as_bytes()).unwrap(),
            verifier,
            NONCE,
        )
    }

    #[test]
    fn it_is_the_exchange_of_the_standard() {
        let exchange = example();
        assert_eq!(
            exchange.server_first(),
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
              s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        assert_eq!(
            exchange.finish(FINAL.as_bytes()).unwrap(),
            b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }

    #[test]
    fn names_are_prepared() {
        for text in ["IX", "\u{2168}", "I\u{AD}X"] {
            let data = format!("n,,n={text},r=x");
            let first = ClientFirst::parse(data.as_bytes()).unwrap();
            assert_eq!(first.name(), "IX");
        }
    }

    /// The client's final message, by RFC 5802.
    fn prove(exchange: &Exchange, password: &[u8], header: &str) -> String {
        let Verifier {
            salt, iterations, ..
        } = &exchange.verifier;
        let mut salted = [0; HASH_BYTES];
        derive(PBKDF2_HMAC_SHA256, *iterations, salt, password, &mut salted);
        let client_key = sign(&hmac(&salted), b"Client Key");
        let stored = digest(&SHA256, client_key.as_ref());
        let unproved = format!(
            "c={},r={}",
            base64::encode(header.as_bytes()),
            exchange.nonce
        );
        let said = format!(
            "{},{},{unproved}",
            exchange.first.bare, exchange.server_first
        );
        let signature = sign(&hmac(stored.as_ref()), said.as_bytes());
        let both = client_key.as_ref().iter().zip(signature.as_ref());
        let proof: Vec<u8> = both.map(|(key, mask)| key ^ mask).collect();
        format!("{unproved},p={}", base64::encode(&proof))
    }

    /// RFC 5802, section 6: who says `y` has to say it twice, and `p` is for others.
    #[test]
    fn what_is_said_of_channel_binding_is_said_twice() {
        for (header, other) in [("n,,", "y,,"), ("y,,", "n,,")] {
            let data = format!("{header}n=user,r=x");
            assert!(!ClientFirst::binds(data.as_bytes()));
            let first = ClientFirst::parse(data.as_bytes()).unwrap();
            let verifier = Verifier::new(b"pencil", vec![1; 16], 4096.try_into().unwrap());
            let exchange = Exchange::new(first, verifier, NONCE);
            let finish = |header| exchange.finish(prove(&exchange, b"pencil", header).as_bytes());
            assert!(finish(header).is_some(), "{header}");
            assert_eq!(finish(other), None, "{header}");
            assert_eq!(finish("p=tls-unique,,"), None, "{header}");
        }
        for data in ["p=tls-unique,,n=user,r=x", "p=tls-exporter,,n=user,r=x"] {
            assert!(ClientFirst::binds(data.as_bytes()));
            assert_eq!(ClientFirst::parse(data.as_bytes()), None);
        }
    }

    #[test]
    fn any_other_final_message_proves_nothing() {
        let exchange = example();
        for place in 0..FINAL.len() {
            let mut bytes = FINAL.as_bytes().to_vec();
            bytes[place] ^= 1;
            assert_eq!(exchange.finish(&bytes), None, "{place}");
            assert_eq!(exchange.finish(&bytes[..place]), None, "{place}");
        }
        assert_eq!(exchange.finish(&[b'x'; TEXT_BYTES_MAX + 1]), None);
    }

    #[test]
    fn first_messages_are_read_strictly() {
        let name = |text: &str| Some(ClientFirst::parse(text.as_bytes())?.name().to_owned());
        assert_eq!(name("y,,n=a=2Cb=3Dc,r=x,z=1").unwrap(), "a,b=c");
        for bad in [
            "",
            "n,",
            "n,,",
            "n,,n=a",
            "n,,n=,r=x",
            "n,,n=a,r=",
            "n,,n=a,r=x y",
            "n,,n=a=2c,r=x",
            "n,,n=a=,r=x",
            "n,a=b,n=a,r=x",
            "p=tls-unique,,n=a,r=x",
            "n,,m=1,n=a,r=x",
            "n,,r=x,n=a",
            "n,,n=\u{627}1,r=x",
            "n,,n=a\u{7},r=x",
            "n,,n=\u{AD},r=x",
        ] {
            assert_eq!(name(bad), None, "{bad}");
        }
        let long = "n".repeat(NAME_BYTES_MAX + 1);
        assert_eq!(name(&format!("n,,n={long},r=x")), None);
    }

    #[test]
    fn mutated_messages() {
        let firsts = [FIRST, "y,,n=a=2Cb=3Dc,r=x,z=1", "n,,n=\u{e4}\u{2168},r=y"];
        crate::mutate::fuzz(&firsts.map(|text| text.as_bytes().to_vec()), |bytes| {
            ClientFirst::binds(bytes);
            ClientFirst::parse(bytes).is_some()
        });
        let exchange = example();
        crate::mutate::fuzz(&[FINAL.as_bytes().to_vec()], |bytes| {
            let answer = exchange.finish(bytes);
            assert!(
                answer.is_none() || bytes == FINAL.as_bytes(),
                "it is proved"
            );
            answer.is_some()
        });
    }
}
