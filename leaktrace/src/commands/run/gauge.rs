//! The metrics of a run.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use leaktrace::metrics::{Page, Server, ServerError};
use leaktrace::report::Report;

/// Makes a page of each report and serves it.
pub(super) struct Gauge {
    page: Page,
    server: Server,
    /// Moment of the attach, seconds since 1970.
    started: Option<f64>,
}

impl Gauge {
    /// Listens, before anything is attached, and says where.
    pub(super) fn start(address: SocketAddr) -> Result<Self, ServerError> {
        let server = Server::start(address)?;
        // A closed stderr is no reason to stop.
        let _ = writeln!(std::io::stderr(), "leaktrace: metrics at http://{}/metrics", server.address());
        Ok(Self { page: Page::default(), server, started: None })
    }

    pub(super) fn publish(&mut self, report: &Report) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        let started = *self.started.get_or_insert(now - report.capture.duration_seconds);
        self.server.publish(self.page.of(report, started, now));
    }

    pub(super) fn beat(&self) {
        self.server.beat();
    }
}
