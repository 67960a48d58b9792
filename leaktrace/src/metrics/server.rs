//! A small HTTP server for `/metrics` and `/healthz`, on threads of its own: a look at a large heap does not delay it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The text format (prometheus.io/docs/instrumenting/exposition_formats).
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Longest request that is read.
const MAX_REQUEST: usize = 8 << 10;
/// How long a client may take for its request, and for each part of the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Clients that are served at once; others wait.
const THREADS: usize = 4;
/// Without a sign of life for so long the collector is not well.
const STALLED: Duration = Duration::from_secs(30);

/// There is no server.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics at {address}: {source}")]
pub struct ServerError {
    pub address: SocketAddr,
    pub source: io::Error,
}

#[derive(Debug)]
struct State {
    page: String,
    beat: Instant,
}

/// Serves until the process ends.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Listens, and serves an empty page at first.
    pub fn start(address: SocketAddr) -> Result<Self, ServerError> {
        let failure = |source| ServerError { address, source };
        let listener = TcpListener::bind(address).map_err(failure)?;
        let address = listener.local_addr().map_err(failure)?;
        let state = Arc::new(Mutex::new(State { page: String::new(), beat: Instant::now() }));
        for _ in 0..THREADS {
            let (listener, state) = (listener.try_clone().map_err(failure)?, Arc::clone(&state));
            let serve = move || {
                for client in listener.incoming().flatten() {
                    // A client that goes away or talks nonsense is its own fault.
                    let _ = answer(client, &state);
                }
            };
            thread::Builder::new().name("metrics".to_owned()).spawn(serve).map_err(failure)?;
        }
        Ok(Self { address, state })
    }

    /// Where it listens: with port 0 the kernel chose one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves this page from now on.
    pub fn publish(&self, page: String) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).page = page;
        self.beat();
    }

    /// The collector is alive.
    pub fn beat(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).beat = Instant::now();
    }
}

fn answer(mut client: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    client.set_write_timeout(Some(PATIENCE))?;
    let request = request(&mut client)?;
    let mut words = request.split_ascii_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, kind, body) = match (method, target.split('?').next().unwrap_or_default()) {
        ("GET" | "HEAD", "/metrics") => ("200 OK", TEXT, lock(state).page.clone()),
        ("GET" | "HEAD", "/healthz") => {
            let silent = lock(state).beat.elapsed();
            if silent < STALLED {
                ("200 OK", "text/plain", "ok\n".to_owned())
            } else {
                ("503 Service Unavailable", "text/plain", format!("no look for {} s\n", silent.as_secs()))
            }
        }
        ("GET" | "HEAD", "/") => ("200 OK", "text/plain", "leaktrace: /metrics, /healthz\n".to_owned()),
        ("GET" | "HEAD", _) => ("404 Not Found", "text/plain", "not found\n".to_owned()),
        _ => ("405 Method Not Allowed", "text/plain", "GET only\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes())?;
    if method != "HEAD" {
        client.write_all(body.as_bytes())?;
    }
    client.flush()
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The head of a request.
fn request(client: &mut TcpStream) -> io::Result<String> {
    let until = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > MAX_REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        client.set_read_timeout(Some(left))?;
        match client.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => head.extend_from_slice(&part[..n]),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(server: &Server, request: &str) -> String {
        let mut client = TcpStream::connect(server.address()).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn paths_and_methods() {
        let server = Server::start("127.0.0.1:0".parse().unwrap()).unwrap();
        server.publish("a 1\n".to_owned());
        let get = |path: &str| ask(&server, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(get("/metrics").starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"));
        assert!(get("/metrics?x=1").ends_with("\r\n\r\na 1\n"));
        assert!(get("/healthz").ends_with("\r\n\r\nok\n"));
        assert!(get("/x").starts_with("HTTP/1.1 404"));
        assert!(ask(&server, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
        assert!(ask(&server, "HEAD /metrics HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
        assert_eq!(ask(&server, &"x".repeat(2 * MAX_REQUEST)), "", "what is too long gets no answer");
    }

    #[test]
    fn a_port_in_use() {
        let server = Server::start("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = Server::start(server.address()).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&server.address().to_string()));
    }
}
