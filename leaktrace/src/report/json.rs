//! The report as JSON.

use std::io::{self, Write};

use super::Report;

/// Name and version of the schema.
pub const SCHEMA: &str = "leaktrace.report/1";

/// Writes the report as one JSON document, indented, with a newline at its end.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)?;
    out.flush()
}
