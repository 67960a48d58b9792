//! The terminal: taken, given back whatever happens, and left for a while by Ctrl-Z.

use std::io::{self, BufWriter, Stdout, Write as _};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use leaktrace::top::{App, draw};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use rustix::process::{Signal, getpid, kill_process};

/// Whether the terminal is ours.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// Set by the signals that end us, by that of Ctrl-Z pressed elsewhere, and by that which follows it.
static STOP: AtomicBool = AtomicBool::new(false);
static SUSPEND: AtomicBool = AtomicBool::new(false);
static CONTINUED: AtomicBool = AtomicBool::new(false);
/// The real stderr while what is written there must not disturb the picture, and what was written meanwhile.
static HELD: Mutex<Option<Held>> = Mutex::new(None);

/// How long a stop may take to come: an orphaned process group is not stopped at all.
const STOPPING: Duration = Duration::from_millis(500);

struct Held {
    stderr: OwnedFd,
    text: std::fs::File,
}

/// The terminal, ours until this is dropped.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
}

impl Screen {
    pub(super) fn take() -> io::Result<Self> {
        hook();
        catch()?;
        enter()?;
        let screen = BufWriter::with_capacity(1 << 16, io::stdout());
        match Terminal::new(CrosstermBackend::new(screen)) {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }

    pub(super) fn draw(&mut self, app: &App) -> io::Result<()> {
        if TAKEN.load(Ordering::SeqCst) {
            self.terminal.draw(|frame| draw(app, frame))?;
        }
        Ok(())
    }

    pub(super) fn size(&self) -> io::Result<(u16, u16)> {
        self.terminal.size().map(|size| (size.width, size.height))
    }

    /// Stops this process as Ctrl-Z does, and comes back when it goes on.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        SUSPEND.store(false, Ordering::SeqCst);
        CONTINUED.store(false, Ordering::SeqCst);
        give_back();
        kill_process(getpid(), Signal::STOP)?;
        // The signal may take another thread first: this one must not draw before everything stands still.
        let begun = Instant::now();
        while !CONTINUED.load(Ordering::SeqCst) && begun.elapsed() < STOPPING {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.again()
    }

    /// Whether the process was stopped and goes on, or is to be stopped; done here.
    pub(super) fn job_control(&mut self) -> io::Result<bool> {
        if SUSPEND.load(Ordering::SeqCst) {
            self.suspend()?;
            return Ok(true);
        }
        if CONTINUED.swap(false, Ordering::SeqCst) {
            // Stopped without a word (SIGSTOP): the shell may have changed the terminal.
            give_back();
            self.again()?;
            return Ok(true);
        }
        Ok(false)
    }

    fn again(&mut self) -> io::Result<()> {
        CONTINUED.store(false, Ordering::SeqCst);
        enter()?;
        self.terminal.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Whether a signal asks to end.
pub(super) fn stop_asked() -> bool {
    STOP.load(Ordering::SeqCst)
}

fn enter() -> io::Result<()> {
    hold_stderr();
    TAKEN.store(true, Ordering::SeqCst);
    let taken = enable_raw_mode().and_then(|()| execute!(io::stdout(), EnterAlternateScreen));
    if taken.is_err() {
        give_back();
    }
    taken
}

/// Gives the terminal back as it was; once is enough. Errors have nobody to be told to.
fn give_back() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
    release_stderr();
}

/// A panic tells what it has to tell on a terminal that can show it.
fn hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
        }));
    });
}

fn catch() -> io::Result<()> {
    let flags = [
        (libc::SIGINT, &STOP),
        (libc::SIGTERM, &STOP),
        (libc::SIGHUP, &STOP),
        (libc::SIGTSTP, &SUSPEND),
        (libc::SIGCONT, &CONTINUED),
    ];
    for (number, flag) in flags {
        // SAFETY: the action only stores into an atomic, which a signal handler may.
        unsafe { signal_hook_registry::register(number, || flag.store(true, Ordering::SeqCst))? };
    }
    Ok(())
}

/// What is written to a stderr that is the terminal waits until the picture is gone.
fn hold_stderr() {
    use std::io::IsTerminal as _;
    if !io::stderr().is_terminal() {
        return;
    }
    let Ok(text) = tempfile::tempfile() else { return };
    let Ok(stderr) = rustix::io::dup(io::stderr()) else { return };
    if redirect(&text) {
        *HELD.lock().unwrap_or_else(PoisonError::into_inner) = Some(Held { stderr, text });
    }
}

fn release_stderr() {
    use std::io::{Read as _, Seek as _};
    // Not waited for: a panic may have come while it was held.
    let Ok(mut held) = HELD.try_lock() else { return };
    let Some(Held { stderr, mut text }) = held.take() else { return };
    redirect(&stderr);
    let mut said = Vec::new();
    if text.rewind().is_ok() && text.read_to_end(&mut said).is_ok() {
        let _ = io::stderr().write_all(&said);
    }
}

/// Makes stderr the same as another file.
fn redirect(to: &impl std::os::fd::AsRawFd) -> bool {
    // SAFETY: both are open; that number 2 means another file from here on is the purpose.
    unsafe { libc::dup2(to.as_raw_fd(), libc::STDERR_FILENO) >= 0 }
}
