//! The loop of the view: keys, new looks, the clock.

use std::io;
use std::time::{Duration, Instant};

use leaktrace::top::{App, Outcome, Picture};
use ratatui::crossterm::event::{self, Event};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::terminal::{Screen, stop_asked};

/// How soon what comes from elsewhere than the keyboard is noticed.
const TURN: Duration = Duration::from_millis(40);
/// How often the age of a paused picture is told.
const AGE: Duration = Duration::from_secs(1);

/// What comes from who traces.
pub(super) enum News {
    Nothing,
    Look(Picture),
    /// It is over.
    End,
}

/// Shows the view until a key or a signal ends it, or there is no more to come.
pub(super) fn run(app: &mut App, mut news: impl FnMut() -> News) -> io::Result<()> {
    let mut screen = Screen::take()?;
    let begun = Instant::now();
    let mut size = screen.size()?;
    app.resize(size.0, size.1);
    let (mut changed, mut drawn) = (true, begun);
    while !stop_asked() {
        app.tick(begun.elapsed().as_secs_f64());
        match news() {
            News::Nothing => {}
            News::Look(picture) => {
                app.receive(picture);
                changed = true;
            }
            News::End => break,
        }
        changed |= screen.job_control()?;
        let now = screen.size()?;
        if now != size {
            size = now;
            app.resize(size.0, size.1);
            changed = true;
        }
        if changed || app.is_paused() && drawn.elapsed() >= AGE {
            screen.draw(app)?;
            (changed, drawn) = (false, Instant::now());
        }
        let mut wait = TURN;
        // All that was typed before the next picture.
        while ready(wait)? {
            wait = Duration::ZERO;
            changed = true;
            if let Event::Key(key) = event::read()? {
                match app.key(key) {
                    Outcome::Continue => {}
                    Outcome::Quit => return Ok(()),
                    Outcome::Suspend => screen.suspend()?,
                }
            }
        }
    }
    Ok(())
}

/// Whether there is an event to read. A terminal that hung up is an error: crossterm reads its end again and again.
fn ready(wait: Duration) -> io::Result<bool> {
    let stdin = io::stdin();
    let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
    let wait = Timespec::try_from(wait).unwrap_or_default();
    match poll(&mut polled, Some(&wait)) {
        // A signal is none. What was read already may hold more than one.
        Err(Errno::INTR) | Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    if polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    event::poll(Duration::ZERO)
}
