//! What a test's client speaks MQTT over: plain TCP, or what `CORELANE_TEST_TRANSPORT` names, TLS
//! (`mqtts`) or WebSocket (`ws`). The node listens accordingly ([`Transport::listen`]).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::LazyLock;

use rustls::{ClientConnection, StreamOwned};

use crate::node::DEADLINE;
use crate::transports::Certificates;

/// The way between clients and the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    Tcp,
    Tls,
    WebSocket,
}

/// The certificates of all nodes of this process.
static CERTIFICATES: LazyLock<Certificates> = LazyLock::new(Certificates::new);

impl Transport {
    /// The one named by `CORELANE_TEST_TRANSPORT`; TCP by default.
    pub(crate) fn chosen() -> Self {
        match std::env::var("CORELANE_TEST_TRANSPORT").as_deref() {
            Ok("mqtts") => Self::Tls,
            Ok("ws") => Self::WebSocket,
            Ok("mqtt") | Err(_) => Self::Tcp,
            Ok(other) => panic!("CORELANE_TEST_TRANSPORT={other}: expected mqtt, mqtts or ws"),
        }
    }

    /// Arguments with which the product listens at this address.
    pub(crate) fn listen(self, address: SocketAddr) -> Vec<String> {
        let (scheme, mut arguments) = match self {
            Self::Tcp => ("mqtt", Vec::new()),
            Self::Tls => ("mqtts", CERTIFICATES.arguments()),
            Self::WebSocket => ("ws", Vec::new()),
        };
        arguments.extend(["--listen".to_owned(), format!("{scheme}://{address}")]);
        arguments
    }
}

/// A connection of bytes that MQTT is spoken over.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    WebSocket(WebSocket),
}

impl Wire {
    pub(super) fn open(address: SocketAddr) -> io::Result<Self> {
        match Transport::chosen() {
            Transport::Tcp => TcpStream::connect(address).map(Self::Plain),
            Transport::Tls => {
                let stream = CERTIFICATES.dial(address.port())?;
                Ok(Self::Tls(Box::new(stream)))
            }
            Transport::WebSocket => WebSocket::open(address).map(Self::WebSocket),
        }
    }

    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
            Self::WebSocket(stream) => &stream.socket,
        }
    }

    pub(super) fn shut_down(&self) {
        drop(self.socket().shutdown(Shutdown::Both));
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            // Some ends of a connection say nothing before.
            Self::Tls(stream) => stream.read(into).or_else(|error| match error.kind() {
                ErrorKind::UnexpectedEof => Ok(0),
                _ => Err(error),
            }),
            Self::WebSocket(stream) => stream.read(into),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
            Self::WebSocket(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
            Self::WebSocket(stream) => stream.socket.flush(),
        }
    }
}

const UPGRADE: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
/// Bytes of MQTT in one frame at most: packets cross frames.
const FRAME_MAX: usize = 1_000;

/// A WebSocket whose every write is a binary frame.
pub(super) struct WebSocket {
    socket: TcpStream,
    /// Frames that are not read yet.
    input: Vec<u8>,
    /// The payload of frames that are.
    payload: Vec<u8>,
    closed: bool,
}

impl WebSocket {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.write_all(UPGRADE)?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte)?;
            answer.extend(byte);
        }
        if !answer.starts_with(b"HTTP/1.1 101 ") {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        Ok(Self {
            socket,
            input: Vec::new(),
            payload: Vec::new(),
            closed: false,
        })
    }

    /// One frame with a mask of zero, under which the payload is as it is.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(FRAME_MAX)];
        let len = u16::try_from(part.len()).expect("at most FRAME_MAX");
        let mut frame = vec![0x82, 0x80 | 126];
        frame.extend(len.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(part);
        self.socket.write_all(&frame)?;
        Ok(part.len())
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.payload.is_empty() {
                let len = self.payload.len().min(into.len());
                into[..len].copy_from_slice(&self.payload[..len]);
                self.payload.drain(..len);
                return Ok(len);
            }
            if self.closed {
                return Ok(0);
            }
            if self.take_frame() {
                continue;
            }
            let mut bytes = [0; 16 * 1024];
            match self.socket.read(&mut bytes)? {
                0 => return Ok(0),
                len => self.input.extend_from_slice(&bytes[..len]),
            }
        }
    }

    /// Moves the first frame's payload out of `input`, when all of it is there.
    fn take_frame(&mut self) -> bool {
        let [first, short, ..] = self.input[..] else {
            return false;
        };
        assert_eq!(short & 0x80, 0, "a server's frames have no mask");
        let (head, len) = match (short, self.input.len()) {
            (126, 4..) => (
                4,
                usize::from(u16::from_be_bytes([self.input[2], self.input[3]])),
            ),
            (127, 10..) => {
                let bytes = self.input[2..10].try_into().expect("eight bytes");
                let len = u64::from_be_bytes(bytes);
                (10, usize::try_from(len).expect("fits the memory"))
            }
            (126 | 127, _) => return false,
            (len, _) => (2, usize::from(len)),
        };
        if self.input.len() < head + len {
            return false;
        }
        let frame: Vec<u8> = self.input.drain(..head + len).collect();
        match first {
            0x82 => self.payload.extend(&frame[head..]),
            0x88 => self.closed = true,
            other => panic!("a frame that begins with {other:#x}"),
        }
        true
    }
}
