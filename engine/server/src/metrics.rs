//! The metrics page: every shard's published numbers as Prometheus text, from a thread of its own;
//! an administrator's requests as well (`admin`).
//!
//! Shards publish into atomics once a second; a scrape reads those and disturbs nobody. It is
//! HTTP/1.0, one request per connection.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tracing::warn;

use crate::admin;
use crate::orders::Orders;
use crate::shared::Shared;

/// How long a scraper may take to send its request or to take the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest request, bytes.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// The type of short texts.
const PLAIN: &str = "text/plain; charset=utf-8";

/// Serves the page until it is dropped.
pub(crate) struct MetricsPage {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsPage {
    /// Starts to serve at `HOST:PORT`.
    pub(crate) fn serve(address: &str, shared: Arc<Shared>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let ends = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ends);
        let mut registry = Registry::with_prefix("corelane");
        registry.register_collector(Box::new(Published(Arc::clone(&shared))));
        let thread = Builder::new().name("metrics".to_owned()).spawn(move || {
            while let Ok((stream, peer)) = listener.accept() {
                if seen.load(Ordering::SeqCst) {
                    return;
                }
                if let Err(error) = answer(stream, peer.ip(), &registry, &shared) {
                    warn!(%error, "a scrape of the metrics failed");
                }
            }
        })?;
        Ok(Self {
            address,
            ends,
            thread: Some(thread),
        })
    }

    /// Where it is served.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsPage {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        // Wakes the thread from its accept.
        if TcpStream::connect_timeout(&self.address, PATIENCE).is_ok()
            && let Some(thread) = self.thread.take()
        {
            drop(thread.join());
        }
    }
}

fn answer(
    mut stream: TcpStream,
    peer: IpAddr,
    registry: &Registry,
    shared: &Shared,
) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = read_request(&mut stream)?;
    let (status, kind, body) = reply(&request, peer, registry, shared.orders());
    let head = format!(
        "HTTP/1.0 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

fn read_request(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        let n = stream.read(&mut part)?;
        if n == 0 {
            break;
        }
        request.extend_from_slice(part.get(..n).unwrap_or_default());
    }
    Ok(request)
}

/// Status, kind and body of the answer to a request.
fn reply(
    request: &[u8],
    peer: IpAddr,
    registry: &Registry,
    orders: &Orders,
) -> (&'static str, &'static str, String) {
    let Some(rest) = request.strip_prefix(b"POST ") else {
        return respond(request, registry);
    };
    let path = rest.split(|byte| *byte == b' ').next().unwrap_or_default();
    let (status, text) = admin::post(path, rest, peer, orders);
    (status, PLAIN, text.to_owned())
}

fn respond(request: &[u8], registry: &Registry) -> (&'static str, &'static str, String) {
    let line = request.split(|&b| b == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&b| b == b' ');
    match (words.next(), words.next()) {
        (Some(b"GET"), Some(b"/metrics" | b"/")) => {
            let mut page = String::new();
            match encode(&mut page, registry) {
                Ok(()) => (
                    "200 OK",
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    page,
                ),
                Err(error) => ("500 Internal Server Error", PLAIN, format!("{error}\n")),
            }
        }
        (Some(b"GET"), Some(_)) => ("404 Not Found", PLAIN, "see /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", PLAIN, "GET /metrics\n".to_owned()),
    }
}

/// Counters carry no exemplars; their type must be some label set.
type NoExemplar = [(&'static str, &'static str); 0];

/// The shards' published numbers as a collector.
struct Published(Arc<Shared>);

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the numbers of {} shards", self.0.shard_count())
    }
}

impl Collector for Published {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let labels: Vec<_> = (0..self.0.shard_count())
            .map(|shard| [("shard", shard.to_string())])
            .collect();
        for (cell, meter) in self.0.meters().iter().enumerate() {
            let kind = if meter.only_grows {
                MetricType::Counter
            } else {
                MetricType::Gauge
            };
            let help = meter.help.strip_suffix('.').unwrap_or(meter.help);
            let mut family = encoder.encode_descriptor(meter.name, help, None, kind)?;
            for (shard, label) in labels.iter().enumerate() {
                let Some(cell) = self.0.cells(shard).get(cell) else {
                    continue;
                };
                let value = cell.load(Ordering::Relaxed);
                let mut one = family.encode_family(label)?;
                if meter.only_grows {
                    one.encode_counter::<NoExemplar, _, u64>(&value, None)?;
                } else {
                    one.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Meter;
    use crate::mutate::fuzz;

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn the_page_has_every_number_of_every_shard() {
        let shared = Shared::new(2);
        let meter = |name, only_grows| Meter {
            name,
            help: "Some help.",
            only_grows,
        };
        shared.name_cells(vec![meter("connections", false), meter("accepted", true)]);
        shared.cells(0)[0].store(7, Ordering::Relaxed);
        shared.cells(1)[1].store(9, Ordering::Relaxed);
        let page = MetricsPage::serve("127.0.0.1:0", shared).unwrap();
        let text = get(page.address(), "/metrics");
        assert!(text.starts_with("HTTP/1.0 200 OK\r\n"), "{text}");
        for line in [
            "# TYPE corelane_connections gauge",
            "# HELP corelane_connections Some help",
            "corelane_connections{shard=\"0\"} 7",
            "corelane_connections{shard=\"1\"} 0",
            "corelane_accepted_total{shard=\"1\"} 9",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
        assert!(get(page.address(), "/other").starts_with("HTTP/1.0 404"));
    }

    #[test]
    fn a_taken_address_is_an_error() {
        let page = MetricsPage::serve("127.0.0.1:0", Shared::new(1)).unwrap();
        assert!(MetricsPage::serve(&page.address().to_string(), Shared::new(1)).is_err());
    }

    /// Scrapes and orders.
    #[test]
    fn mutated_requests() {
        let samples = [
            "GET /metrics HTTP/1.1\r\nHost: here\r\nAccept: */*\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "POST /clients/a%2Fb%20c/kick HTTP/1.1\r\nHost: here\r\n\r\n",
            "POST /clients/a/use-another/b%3A1%20c HTTP/1.1\r\nHost: here\r\n\r\n",
            "POST /clients/a/moved/b HTTP/1.1\r\nHost: here\r\n\r\n",
        ];
        let (registry, orders) = (Registry::default(), Orders::default());
        let peer = IpAddr::from([127, 0, 0, 1]);
        fuzz(&samples.map(|text| text.as_bytes().to_vec()), |bytes| {
            let mut wire = bytes;
            let request = read_request(&mut wire).unwrap();
            assert!(request.len() < REQUEST_BYTES_MAX + 1024);
            let (status, _, body) = reply(&request, peer, &registry, &orders);
            assert!(body.len() < 1024, "{body}");
            // Without shards nobody obeys.
            ["200", "503"].contains(&&status[..3])
        });
    }
}
