//! The metrics of a run.

use std::io::Write as _;
use std::net::SocketAddr;

use leaktrace::metrics::{Exporter, ListenError, ProcessStats, Server};
use leaktrace::report::Report;
use leaktrace::session::Session;

/// What Prometheus scrapes while the run goes on.
pub(super) struct Metrics {
    server: Server,
    exporter: Exporter,
}

impl Metrics {
    /// Listens, before anything is attached: an address that is taken is told at once.
    pub(super) fn listen(address: SocketAddr) -> Result<Self, ListenError> {
        let server = Server::start(address)?;
        // A closed stderr is no reason to stop.
        let _ = writeln!(std::io::stderr(), "leaktrace: metrics on http://{}/metrics", server.address());
        Ok(Self { server, exporter: Exporter::default() })
    }

    /// Gives out this report from now on.
    pub(super) fn publish(&mut self, session: &Session, report: &Report) {
        self.server.publish(self.exporter.page(report, &ProcessStats::of(session.target())));
    }

    /// The tracing goes on.
    pub(super) fn alive(&self) {
        self.server.alive();
    }
}
