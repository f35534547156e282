//! The client's side of SCRAM-SHA-256 (RFC 5802 and 7677), written from the standards.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use aws_lc_rs::pbkdf2::{PBKDF2_HMAC_SHA256, derive};

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A client that knows a password.
#[derive(Debug)]
pub(super) struct Scram {
    bare: String,
    password: String,
    /// What the server has to say in the end.
    signature: String,
}

impl Scram {
    pub(super) fn new(user: &str, password: &str, nonce: &str) -> Self {
        Self {
            bare: format!("n={user},r={nonce}"),
            password: password.to_owned(),
            signature: String::new(),
        }
    }

    pub(super) fn first(&self) -> String {
        format!("n,,{}", self.bare)
    }

    /// The final message, which answers the server's first.
    pub(super) fn last(&mut self, server_first: &str) -> String {
        let field = |name: &str| {
            let mut fields = server_first.split(',');
            let value = fields.find_map(|field| field.strip_prefix(name));
            value.unwrap_or_else(|| panic!("no {name} in {server_first}"))
        };
        let nonce = self.bare.split_once(",r=").expect("a nonce").1;
        let whole = field("r=");
        assert!(whole.starts_with(nonce) && whole.len() > nonce.len() + 16);
        let rounds: u32 = field("i=").parse().expect("a number");
        let salt = decode(field("s="));
        let mut salted = [0; 32];
        let rounds = rounds.try_into().expect("at least one");
        let password = self.password.as_bytes();
        derive(PBKDF2_HMAC_SHA256, rounds, &salt, password, &mut salted);
        let client_key = hmac(&salted, b"Client Key");
        let stored_key = digest(&SHA256, &client_key);
        let unproved = format!("c=biws,r={whole}");
        let said = format!("{},{server_first},{unproved}", self.bare);
        let signature = hmac(stored_key.as_ref(), said.as_bytes());
        let proof: Vec<u8> = client_key
            .iter()
            .zip(&signature)
            .map(|(a, b)| a ^ b)
            .collect();
        let server_key = hmac(&salted, b"Server Key");
        self.signature = encode(&hmac(&server_key, said.as_bytes()));
        format!("{unproved},p={}", encode(&proof))
    }

    /// What a server says in the end that knows the password's keys.
    pub(super) fn server_last(&self) -> String {
        format!("v={}", self.signature)
    }
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    sign(&Key::new(HMAC_SHA256, key), text).as_ref().to_vec()
}

fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let at = |n: usize| usize::from(three.get(n).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for n in 0..4 {
            let digit = char::from(DIGITS[bits >> (18 - 6 * n) & 63]);
            text.push(if n > three.len() { '=' } else { digit });
        }
    }
    text
}

fn decode(text: &str) -> Vec<u8> {
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0, 0);
    for digit in text.bytes().filter(|byte| *byte != b'=') {
        let value = DIGITS
            .iter()
            .position(|known| *known == digit)
            .expect("base64");
        (bits, count) = (bits << 6 | value, count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xFF).expect("eight bits"));
        }
    }
    bytes
}

/// The example of RFC 7677, section 3.
#[test]
fn the_client_of_these_tests_is_that_of_the_standard() {
    let mut client = Scram::new("user", "pencil", "rOprNGfwEbeRWgbNEkqO");
    let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let last = client.last(&format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"));
    let proof = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    assert_eq!(last, format!("c=biws,r={nonce},p={proof}"));
    let signature = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
    assert_eq!(client.server_last(), format!("v={signature}"));
}
