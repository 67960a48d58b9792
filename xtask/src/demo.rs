//! The bundled leaking service, started and always ended.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::{python, workspace};

/// A running demo service. Dropping it ends it; it also ends by itself when this process dies, because that closes its
/// standard input.
pub(crate) struct Demo {
    child: Child,
    pub(crate) port: u64,
}

impl Demo {
    pub(crate) fn start() -> Result<Self> {
        let python = python::find()?;
        let script = workspace::root().join("tests/services/demo.py");
        let mut child = Command::new(&python)
            .arg(&script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Out of the terminal's foreground group: Ctrl-C is for leaktrace.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start the demo service with {}", python.display()))?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("the demo service has no output")?;
        let read = BufReader::new(stdout).read_line(&mut line);
        let mut demo = Self { child, port: 0 };
        read.context("cannot read from the demo service")?;
        let ready: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("the demo service did not start: {line:?}"))?;
        demo.port = ready["port"].as_u64().context("the demo service gave no port")?;
        eprintln!(
            "==> demo service: pid {}, http://127.0.0.1:{}/profile/NAME, {}\n    {} answers 200 requests a second; \
             its profile_page keeps every page it renders in a dict",
            demo.pid(),
            demo.port,
            python.display(),
            script.strip_prefix(workspace::root()).unwrap_or(&script).display()
        );
        Ok(demo)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It may have ended already; both calls then do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn the_demo_serves_and_ends() {
        let demo = Demo::start().unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(demo.port).unwrap())).unwrap();
        stream.write_all(b"GET /profile/ann HTTP/1.1\r\nConnection: close\r\nX-Trace-Id: 1\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("Profile of ann"), "{answer}");
        let pid = demo.pid();
        drop(demo);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
