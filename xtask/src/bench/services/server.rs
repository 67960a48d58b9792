//! A service of tests/bench/services, under load when it is told to work.

use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::load::Load;
use crate::bench::process;
use crate::bench::subject::{Subject, Window};
use crate::workspace;

/// Longest wait for the start, which may have to fill a large heap.
const START: Duration = Duration::from_mins(4);
/// Longest wait for an answer to a single request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Dropping it ends it; it also ends by itself when this process dies.
pub(super) struct Server {
    child: Child,
    /// Held open: what it may say later is to find a reader.
    stdout: BufReader<ChildStdout>,
    /// Of the process that answers, which may be a child of the one that was started.
    pid: u32,
    port: u16,
    load: Load,
}

impl Server {
    pub(super) fn start(command: &mut Command, load: &Load) -> Result<Self> {
        command.current_dir(workspace::root().join("tests/bench/services")).env("PYTHONHASHSEED", "0");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        // SAFETY: prctl is a system call, which may be made between fork and exec.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let shown = command.get_program().display().to_string();
        let mut child = command.spawn().with_context(|| format!("cannot start {shown}"))?;
        let stdout = BufReader::new(child.stdout.take().context("the service has no output")?);
        let mut server = Self { child, stdout, pid: 0, port: 0, load: load.clone() };
        let line = process::next_line(&mut server.stdout, START)?.unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["READY", pid, port] = words[..] else { bail!("the service did not start: {line:?}") };
        (server.pid, server.port) = (pid.parse()?, port.parse()?);
        Ok(server)
    }
}

/// The answer to a GET of a port of this machine, with its head.
pub(super) fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("the service does not listen")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("no answer to GET {path}"))?;
    let status = answer.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        bail!("GET {path} was answered by status {status:?}");
    }
    Ok(answer)
}

impl Subject for Server {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn run(&mut self, seconds: f64) -> Result<Window> {
        let before = process::cpu_seconds(self.pid)?;
        let answers = self.load.start(self.port, seconds.ceil() as u64)?.finish()?;
        let cpu = process::cpu_seconds(self.pid)? - before;
        Ok(Window { units: answers.requests, cpu, wall: answers.seconds(), requests: Some(answers.how) })
    }

    fn while_working(&mut self, action: &mut dyn FnMut(u32) -> Result<()>) -> Result<()> {
        let load = self.load.start(self.port, 3600)?;
        let result = action(self.pid);
        load.interrupt()?;
        result
    }

    fn tracemalloc(&mut self, frames: u32) -> Result<()> {
        get(self.port, &format!("/tracemalloc/{frames}")).map(drop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: the child has not been waited for, so its pid is its own, and that of the group of it and its workers.
        unsafe { libc::kill(-self.child.id().cast_signed(), libc::SIGKILL) };
        let _ = self.child.wait();
    }
}
