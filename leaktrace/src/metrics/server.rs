//! A small HTTP server, on a thread of its own: a scrape does not wait for a look, nor a look for a scrape.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::text::CONTENT_TYPE;

/// Connections served at once; more wait.
const CONNECTIONS: usize = 16;
/// Longest head of a request.
const MAX_HEAD: usize = 8 << 10;
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Without a sign of life of the tracing for so long, `/healthz` says that it hangs.
const HANGS: Duration = Duration::from_mins(1);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot serve metrics on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot start the thread of the metrics server: {0}")]
    Thread(io::Error),
}

/// What the server gives out.
#[derive(Debug)]
struct State {
    page: Mutex<Arc<str>>,
    begin: Instant,
    /// Milliseconds from the beginning to the last sign of life.
    alive_ms: AtomicU64,
}

impl State {
    fn page(&self) -> Arc<str> {
        Arc::clone(&self.page.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn hangs(&self) -> bool {
        let alive = Duration::from_millis(self.alive_ms.load(Ordering::Relaxed));
        self.begin.elapsed().saturating_sub(alive) > HANGS
    }
}

/// The server. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    state: Arc<State>,
    /// Its end ends the thread.
    _stop: oneshot::Sender<()>,
}

impl Server {
    /// Listens, and answers from now on; metrics only after the first [`Self::publish`].
    ///
    /// # Errors
    /// When the address is taken, not this host's, or needs privileges.
    pub fn start(address: SocketAddr) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ListenError::Thread)?;
        let state =
            Arc::new(State { page: Mutex::new(Arc::from("")), begin: Instant::now(), alive_ms: AtomicU64::new(0) });
        let (stop, stopped) = oneshot::channel();
        let served = Arc::clone(&state);
        std::thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(listener, served) => {}
                        _ = stopped => {}
                    }
                });
            })
            .map_err(ListenError::Thread)?;
        Ok(Self { address, state, _stop: stop })
    }

    /// Where it listens, with the port that was given for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gives out this page from now on.
    pub fn publish(&self, page: String) {
        *self.state.page.lock().unwrap_or_else(PoisonError::into_inner) = page.into();
    }

    /// The tracing goes on.
    pub fn alive(&self) {
        self.state.alive_ms.store(self.state.begin.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    // A client that goes away or is slow only harms itself.
                    let _ = timeout(PATIENCE, serve(stream, &state)).await;
                    drop(permit);
                });
            }
            // Out of descriptors, say: a pause, or this would be a busy loop.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// One request, one answer.
async fn serve(mut stream: TcpStream, state: &State) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > MAX_HEAD {
            return stream
                .write_all(&answer("431 Request Header Fields Too Large", "text/plain", "head too long\n", true))
                .await;
        }
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(&respond(&head, state)).await?;
    stream.shutdown().await
}

fn respond(head: &[u8], state: &State) -> Vec<u8> {
    const PLAIN: &str = "text/plain; charset=utf-8";
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
    let body = match method {
        b"GET" => true,
        b"HEAD" => false,
        _ => return answer("405 Method Not Allowed", PLAIN, "only GET and HEAD\n", true),
    };
    match path {
        b"/metrics" => answer("200 OK", CONTENT_TYPE, &state.page(), body),
        b"/healthz" if state.hangs() => answer("503 Service Unavailable", PLAIN, "the tracing hangs\n", body),
        b"/healthz" => answer("200 OK", PLAIN, "ok\n", body),
        b"/" => answer("200 OK", PLAIN, "leaktrace: /metrics, /healthz\n", body),
        _ => answer("404 Not Found", PLAIN, "there is /metrics and /healthz\n", body),
    }
}

fn answer(status: &str, content_type: &str, text: &str, body: bool) -> Vec<u8> {
    let length = text.len();
    let text = if body { text } else { "" };
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{allow}Connection: close\r\n\r\n{text}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use super::*;

    fn ask(server: &Server, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn answers() {
        let server = Server::start("127.0.0.1:0".parse().unwrap()).unwrap();
        server.publish("a 1\n".to_owned());
        let metrics = ask(&server, b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n") && metrics.ends_with("\r\n\r\na 1\n"), "{metrics}");
        let head = ask(&server, b"HEAD /metrics HTTP/1.1\r\n\r\n");
        assert!(head.contains("Content-Length: 4\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(ask(&server, b"GET /healthz HTTP/1.0\r\n\r\n").ends_with("ok\n"));
        assert!(ask(&server, b"POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
        assert!(ask(&server, b"GET /x HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(ask(&server, b"\xff\r\n\r\n").starts_with("HTTP/1.1 405 "));
        assert!(ask(&server, &[b'a'; MAX_HEAD + 1]).starts_with("HTTP/1.1 431 "));
    }

    #[test]
    fn a_port_that_is_taken() {
        let server = Server::start("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = Server::start(server.address()).unwrap_err();
        assert!(error.to_string().contains(&server.address().to_string()), "{error}");
    }

    #[test]
    fn a_tracing_that_hangs() {
        let state = |begin| State { page: Mutex::new(Arc::from("")), begin, alive_ms: AtomicU64::new(0) };
        let head = b"GET /healthz HTTP/1.1\r\n\r\n";
        assert!(respond(head, &state(Instant::now())).starts_with(b"HTTP/1.1 200 "));
        let Some(long_ago) = Instant::now().checked_sub(2 * HANGS) else { return };
        assert!(respond(head, &state(long_ago)).starts_with(b"HTTP/1.1 503 "));
    }
}
