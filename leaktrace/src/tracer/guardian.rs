//! A process of our own that outlives a SIGKILL, to remove what it left behind. See [`super::leftovers`] for why that is needed.
//!
//! It sleeps until this process ends. In a session of its own, so that what a terminal or a shell sends to its group does
//! not reach it.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open, setsid};

use super::leftovers::{Owner, sweep_of};

/// The hidden subcommand of this executable that runs [`watch`].
pub const SUBCOMMAND: &str = "guard";

/// The guardian of this process. Dropping it ends it: do so when nothing is armed any more.
#[derive(Debug)]
pub(super) struct Guardian(Child);

impl Guardian {
    /// Starts a guardian for what this process will arm in process `target`.
    pub(super) fn start(tracefs: &Path, target: u32) -> io::Result<Self> {
        let arguments: [OsString; 3] = [SUBCOMMAND.into(), Owner::here(target).to_string().into(), tracefs.into()];
        let mut command = Command::new("/proc/self/exe");
        command.arg0("leaktrace").args(arguments).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: setsid(2) is async-signal-safe and touches no memory of the parent.
        unsafe { command.pre_exec(|| Ok(setsid().map(|_| ())?)) };
        command.spawn().map(Self)
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The guardian's side: waits until its parent, `owner`'s maker, is gone, and removes what stayed.
pub fn watch(owner: &str, tracefs: &Path) -> io::Result<()> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "not the name of a group of probes");
    let owner = Owner::parse(owner).ok_or_else(invalid)?;
    let maker = i32::try_from(owner.maker()).ok().and_then(Pid::from_raw).ok_or_else(invalid)?;
    // Once it is not our parent any more it is dead, and its pid may be another's.
    if let Ok(pidfd) = pidfd_open(maker, PidfdFlags::empty())
        && getppid() == Some(maker)
    {
        let mut ended = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        while rustix::event::poll(&mut ended, None).is_err() {}
    }
    sweep_of(tracefs, owner);
    Ok(())
}
