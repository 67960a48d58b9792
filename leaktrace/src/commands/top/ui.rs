//! The loop of the view: keys, new looks, the clock.

use std::io;
use std::time::{Duration, Instant};

use leaktrace::top::{App, Outcome, Picture};
use ratatui::crossterm::event::{self, Event};

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
    let (columns, rows) = screen.size()?;
    app.resize(columns, rows);
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
        if changed || app.is_paused() && drawn.elapsed() >= AGE {
            // The size may have changed while we were stopped.
            let (columns, rows) = screen.size()?;
            app.resize(columns, rows);
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

/// Whether there is an event to read; a signal while it waits is none.
fn ready(wait: Duration) -> io::Result<bool> {
    match event::poll(wait) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        other => other,
    }
}
