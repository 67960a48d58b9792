//! A terminal to run commands in, with a shell: tmux, with a server of its own.
//!
//! Needs `tmux`: on Debian, `apt-get install tmux`.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};

/// How long something may take to show.
const PATIENCE: Duration = Duration::from_mins(1);
/// The shell's prompt.
const PROMPT: &str = "prompt>";

/// A terminal with a shell. Dropping it ends its server and all that runs in it.
pub struct Tmux {
    socket: String,
}

impl Tmux {
    /// A terminal of `columns` by `rows` with bash at its prompt.
    ///
    /// # Panics
    /// When tmux is not there.
    pub fn start(columns: u16, rows: u16, environment: &[(&str, &str)]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let tmux = Self { socket: format!("leaktrace-test-{}-{number}", std::process::id()) };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let mut arguments = vec!["new-session", "-d", "-x", &columns, "-y", &rows];
        let words: Vec<String> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        arguments.extend(["env", "PS1=prompt> ", "LC_ALL=C.UTF-8"]);
        arguments.extend(words.iter().map(String::as_str));
        arguments.extend(["bash", "--norc", "--noprofile", "-i"]);
        tmux.tmux(&arguments);
        tmux.wait("the prompt", |screen| screen.contains(PROMPT));
        tmux
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = Command::new("tmux")
            .args(["-u", "-L", &self.socket, "-f", "/dev/null"])
            .args(arguments)
            // A test may be run in a tmux itself.
            .env_remove("TMUX")
            .output()
            .unwrap_or_else(|error| panic!("cannot start tmux ({error}); install it"));
        assert!(status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8_lossy(&stdout).into_owned()
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The same with what was scrolled out of it.
    pub fn history(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-J", "-S", "-"])
    }

    /// Presses keys, as tmux names them: "Enter", "C-z", "/".
    pub fn keys(&self, keys: &[&str]) {
        let mut arguments = vec!["send-keys"];
        arguments.extend(keys);
        self.tmux(&arguments);
    }

    /// Types a text as it is.
    pub fn text(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
    }

    /// Types a command and Enter.
    pub fn command(&self, command: &str) {
        self.text(command);
        self.keys(&["Enter"]);
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// Whether a program has taken the whole screen.
    pub fn is_alternate(&self) -> bool {
        self.format("#{alternate_on}") == "1"
    }

    /// The process of the shell.
    pub fn shell(&self) -> u32 {
        self.format("#{pane_pid}").parse().expect("tmux tells a pid")
    }

    /// The only child of the shell.
    pub fn child(&self) -> u32 {
        let shell = self.shell();
        let children =
            std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).expect("the shell lives");
        children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("the shell has a child")
    }

    fn format(&self, format: &str) -> String {
        self.tmux(&["display-message", "-p", format]).trim().to_owned()
    }

    /// Waits until the screen is as it should be, and gives it.
    ///
    /// # Panics
    /// With what it shows, when that does not happen.
    pub fn wait(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if is_so(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "{what} does not show:\n{screen}");
            pause(Duration::from_millis(20));
        }
    }

    /// Waits for the shell's prompt on the usual screen.
    ///
    /// # Panics
    /// When it does not come.
    pub fn wait_for_prompt(&self) {
        self.wait("the prompt", |screen| !self.is_alternate() && screen.trim_end().ends_with(PROMPT));
    }

    /// What a command prints, run at the prompt; little enough for one screen.
    pub fn ask(&self, command: &str) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let done = format!("done-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let asked = format!("echo {done}");
        self.command(&format!("{command}; {asked}"));
        let screen = self.wait(command, |screen| screen.lines().any(|line| line.trim() == done));
        let lines: Vec<&str> = screen.lines().collect();
        let start = lines.iter().rposition(|line| line.trim_end().ends_with(&asked)).map_or(0, |echo| echo + 1);
        let printed: Vec<&str> = lines[start..].iter().take_while(|line| line.trim() != done).copied().collect();
        printed.join("\n")
    }
}

/// Waits; not for anything to happen, but until it is worth to look again.
fn pause(time: Duration) {
    let time = Timespec::try_from(time).expect("a short time fits");
    poll(&mut [], Some(&time)).expect("nothing can be polled");
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).env_remove("TMUX").output();
    }
}
