//! Where results go: files are tried before the work, and a reader that went away is no error.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;

use leaktrace::host::signals::reader_is_gone;
use leaktrace::report::Style;
use serde::Serialize;

use crate::cli::JsonOutput;
use crate::exit::{ExitCode, Failure};

/// Writes `text` to stdout.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if !reader_is_gone(&error) => Err(failure("stdout", &error)),
        _ => Ok(()),
    }
}

/// Where the text for people goes: stdout, or stderr when stdout is taken by the JSON.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    pub(crate) to_stderr: bool,
}

impl Page {
    pub(crate) fn style(self) -> Style {
        style(if self.to_stderr { io::stderr().is_terminal() } else { io::stdout().is_terminal() })
    }

    pub(crate) fn print(self, text: &str) -> Result<(), Failure> {
        if !self.to_stderr {
            return print(text);
        }
        match io::stderr().write_all(text.as_bytes()) {
            Err(error) if !reader_is_gone(&error) => Err(failure("stderr", &error)),
            _ => Ok(()),
        }
    }
}

/// Colours only on a terminal, and not when `NO_COLOR` is set to anything (no-color.org).
pub(crate) fn style(terminal: bool) -> Style {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if terminal && !refused { Style::COLOUR } else { Style::PLAIN }
}

/// The place of the JSON report, proved to be writable.
#[derive(Debug)]
pub(crate) enum Json {
    Stdout,
    File(File, PathBuf),
}

impl Json {
    /// Opens it without touching what is there: a run that fails must not cost an older report.
    pub(crate) fn open(output: &JsonOutput) -> Result<Self, Failure> {
        match output {
            JsonOutput::Stdout => Ok(Self::Stdout),
            JsonOutput::File(path) => OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .map(|file| Self::File(file, path.clone()))
                .map_err(|error| failure(&path.display().to_string(), &error)),
        }
    }

    /// Writes a value as indented JSON in the place of what was there.
    pub(crate) fn write_value(self, value: &impl Serialize) -> Result<(), Failure> {
        self.write(|out| {
            serde_json::to_writer_pretty(&mut *out, value)?;
            writeln!(out)
        })
    }

    /// Writes the report in the place of what was there.
    pub(crate) fn write(self, report: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
        let buffered = |out: &mut dyn Write| {
            let mut out = io::BufWriter::with_capacity(1 << 16, out);
            report(&mut out).and_then(|()| out.flush())
        };
        let (place, written) = match self {
            Self::Stdout => ("stdout".to_owned(), buffered(&mut io::stdout().lock())),
            Self::File(mut file, path) => {
                // A pipe or a device (/dev/stderr, process substitution) cannot be cut, and need not be.
                let cut = if file.metadata().is_ok_and(|m| m.is_file()) { file.set_len(0) } else { Ok(()) };
                (path.display().to_string(), cut.and_then(|()| buffered(&mut file)))
            }
        };
        match written {
            Err(error) if !reader_is_gone(&error) => Err(failure(&place, &error)),
            _ => Ok(()),
        }
    }
}

fn failure(place: &str, error: &io::Error) -> Failure {
    Failure::new(ExitCode::Output, format!("cannot write {place}: {error}"), "choose another place for the output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_report_stays_until_the_new_one_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        std::fs::write(&path, "an older and longer report").unwrap();
        let json = Json::open(&JsonOutput::File(path.clone())).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "an older and longer report");
        json.write(|out| out.write_all(b"{}\n")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{}\n");
    }

    #[test]
    fn a_place_that_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_path_buf(), dir.path().join("none/report.json")] {
            let failure = Json::open(&JsonOutput::File(path.clone())).unwrap_err();
            assert_eq!(failure.code, ExitCode::Output);
            assert!(failure.what.contains(&path.display().to_string()), "{failure}");
        }
    }
}
