//! Loopback: what is served while a trace goes on.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use rustix::process::Signal;

use crate::process::signal;

/// Status line and body of a GET.
///
/// # Panics
/// When nobody answers.
pub fn http_get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").expect("the server reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server answers in UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

/// A port that nobody listens on. Not quite sure, but what comes of it if somebody does is an error and not a wrong result.
///
/// # Panics
/// When no port is left.
pub fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").to_string()
}

/// Stops a process that is traced, waits until nothing of it can be new, and gives the metrics: later looks find the same.
///
/// # Panics
/// When nobody answers.
pub fn metrics_at_rest(pid: u32, address: &str) -> String {
    signal(pid, Signal::STOP);
    let looks = || sample(&http_get(address, "/metrics").1, "leaktrace_looks_total");
    let stopped = looks();
    while looks() < stopped + 2.0 {
        std::thread::yield_now();
    }
    http_get(address, "/metrics").1
}

/// A sample of a page of metrics, by its name with its labels.
///
/// # Panics
/// When it is not there.
pub fn sample(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name} in {page}"))
}
