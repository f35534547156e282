//! TLS between rustls on both sides: handshakes, certificates, any split of bytes.

use std::io::{Read, Write};

use proptest::prelude::*;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

use super::super::{ClientCertificate, TlsError, TlsFiles};
use super::*;

/// A certificate authority of the test's own, and files that a node would have.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self {
            folder: tempfile::tempdir().unwrap(),
            issuer,
        };
        authority.write("ca.pem", &authority.issuer.pem());
        let (certificate, key) = authority.issue();
        authority.write("chain.pem", &certificate.pem());
        authority.write("key.pem", &key.serialize_pem());
        authority
    }

    fn issue(&self) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    #[expect(clippy::disallowed_methods, reason = "the files of a test's user")]
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn files(&self, client_ca: bool) -> TlsFiles {
        let path = |name: &str| self.folder.path().join(name);
        TlsFiles {
            certificate: path("chain.pem"),
            key: path("key.pem"),
            client_ca: client_ca.then(|| path("ca.pem")),
            client_certificate: ClientCertificate::Required,
        }
    }

    fn client(&self, version: &'static SupportedProtocolVersion, shows: bool) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let config = if shows {
            let (certificate, key) = self.issue();
            let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap()
    }
}

/// Carries bytes both ways until neither has more to say; the client's in pieces of `cuts` bytes.
fn talk(
    client: &mut ClientConnection,
    server: &mut Tls,
    cuts: &[usize],
    plain: &mut Vec<u8>,
) -> Result<Flow, String> {
    let mut cuts = cuts.iter().cycle();
    loop {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        if wire.is_empty() {
            return Ok(Flow::Open);
        }
        let mut answer = Vec::new();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            let cut = (*cuts.next().unwrap()).min(rest.len());
            let (part, after) = rest.split_at(cut);
            rest = after;
            if server.inbound(part, plain, &mut answer)? == Flow::Ended {
                return Ok(Flow::Ended);
            }
        }
        hear(client, &answer);
    }
}

fn hear(client: &mut ClientConnection, mut wire: &[u8]) {
    while !wire.is_empty() {
        client.read_tls(&mut wire).unwrap();
        // A refusal is seen by the next read.
        drop(client.process_new_packets());
    }
}

#[test]
fn both_versions_carry_bytes_both_ways_and_keep_none() {
    let authority = Authority::new();
    let tls = authority.files(false).load().unwrap();
    for version in [&TLS12, &TLS13] {
        let mut client = authority.client(version, false);
        let mut server = Tls::new(&tls).unwrap();
        let mut plain = Vec::new();
        assert!(server.is_handshaking());
        assert_eq!(
            talk(&mut client, &mut server, &[usize::MAX], &mut plain),
            Ok(Flow::Open)
        );
        assert!(!server.is_handshaking() && !client.is_handshaking());
        client.writer().write_all(&[7; 40_000]).unwrap();
        assert_eq!(
            talk(&mut client, &mut server, &[usize::MAX], &mut plain),
            Ok(Flow::Open)
        );
        assert_eq!(plain, [7; 40_000]);
        assert_eq!(server.held_bytes(), 0);
        let mut wire = Vec::new();
        server.outbound(&[9; 40_000], &mut wire);
        server.farewell(&mut wire);
        let mut got = Vec::new();
        for part in wire.chunks(4000) {
            hear(&mut client, part);
            // Nothing more is there yet, or the end.
            drop(client.reader().read_to_end(&mut got));
        }
        assert_eq!(got, [9; 40_000]);
        assert_eq!(client.reader().read(&mut [0]).unwrap(), 0, "an orderly end");
        client.send_close_notify();
        let end = talk(&mut client, &mut server, &[usize::MAX], &mut plain);
        assert_eq!(end, Ok(Flow::Ended));
    }
}

#[test]
fn a_client_certificate_is_asked_for_and_checked() {
    let authority = Authority::new();
    let stranger = Authority::new();
    for version in [&TLS12, &TLS13] {
        let required = authority.files(true).load().unwrap();
        let optional = TlsFiles {
            client_certificate: ClientCertificate::Optional,
            ..authority.files(true)
        };
        let optional = optional.load().unwrap();
        let attempt = |tls: &ServerTls, shows: bool| {
            let mut server = Tls::new(tls).unwrap();
            let mut client = authority.client(version, shows);
            talk(&mut client, &mut server, &[usize::MAX], &mut Vec::new())
        };
        assert_eq!(attempt(&required, true), Ok(Flow::Open));
        assert!(attempt(&required, false).is_err());
        assert_eq!(attempt(&optional, false), Ok(Flow::Open));
        // Its certificate is signed by somebody else.
        let foreign = TlsFiles {
            client_ca: Some(stranger.folder.path().join("ca.pem")),
            ..authority.files(true)
        };
        assert!(attempt(&foreign.load().unwrap(), true).is_err());
    }
}

#[test]
fn garbage_is_answered_with_an_alert() {
    let authority = Authority::new();
    let tls = authority.files(false).load().unwrap();
    for garbage in [
        b"\x10\x20\x00\x04MQTT\x04\x02\x00\x3c".as_slice(),
        b"GET /mqtt HTTP/1.1\r\n\r\n",
        &[0x16, 3, 1, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0],
    ] {
        let mut answer = Vec::new();
        let mut server = Tls::new(&tls).unwrap();
        assert!(
            server
                .inbound(garbage, &mut Vec::new(), &mut answer)
                .is_err()
        );
        assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let other = Authority::new();
    let path = |name: &str| authority.folder.path().join(name);
    let error = |files: TlsFiles| files.load().unwrap_err();
    let good = authority.files(false);
    let missing = TlsFiles {
        certificate: path("missing"),
        ..good.clone()
    };
    assert!(matches!(error(missing), TlsError::Unreadable(at, _) if at == path("missing")));
    let swapped = TlsFiles {
        certificate: path("key.pem"),
        ..good.clone()
    };
    assert_eq!(error(swapped), TlsError::NoCertificate(path("key.pem")));
    let swapped = TlsFiles {
        key: path("chain.pem"),
        ..good.clone()
    };
    assert!(matches!(error(swapped), TlsError::NoKey(at, _) if at == path("chain.pem")));
    let mismatch = TlsFiles {
        key: other.folder.path().join("key.pem"),
        ..good.clone()
    };
    let problem = error(mismatch);
    assert!(
        matches!(&problem, TlsError::KeyMismatch { .. }),
        "{problem}"
    );
    assert!(problem.to_string().contains("chain.pem"), "{problem}");
    authority.write(
        "bad.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let damaged = TlsFiles {
        certificate: path("bad.pem"),
        ..good
    };
    let problem = error(damaged).to_string();
    assert!(problem.contains("bad.pem"), "{problem}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// However the client's bytes are cut, the handshake ends and the same comes out.
    #[test]
    fn any_split_gives_the_same(
        cuts in prop::collection::vec(1usize..120, 1..20),
        payload in prop::collection::vec(any::<u8>(), 1..3000),
        is_old: bool,
    ) {
        let authority = Authority::new();
        let tls = authority.files(true).load().unwrap();
        let mut client = authority.client(if is_old { &TLS12 } else { &TLS13 }, true);
        let (mut server, mut plain) = (Tls::new(&tls).unwrap(), Vec::new());
        prop_assert_eq!(talk(&mut client, &mut server, &cuts, &mut plain), Ok(Flow::Open));
        client.writer().write_all(&payload).unwrap();
        prop_assert_eq!(talk(&mut client, &mut server, &cuts, &mut plain), Ok(Flow::Open));
        prop_assert_eq!(plain, payload);
        prop_assert_eq!(server.held_bytes(), 0);
    }
}
