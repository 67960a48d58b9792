//! Reads rows that may hold anything, and keeps what can be read.

use rusqlite::{Connection, Row};

/// Largest number that is believed of blocks and bytes, so that sums of them stay numbers.
const MAX: u64 = 1 << 56;

/// What was wrong with a recording, the first thing of each table.
#[derive(Debug, Default)]
pub(super) struct Damage(Vec<String>);

impl Damage {
    pub(super) fn note(&mut self, what: impl Into<String>) {
        self.0.push(what.into());
    }

    pub(super) fn into_notes(self) -> Vec<String> {
        self.0
    }

    /// All rows of a query up to the first that cannot be read or that `read` refuses.
    pub(super) fn rows(
        &mut self,
        from: &Connection,
        table: &str,
        query: &str,
        mut read: impl FnMut(&Row<'_>) -> rusqlite::Result<()>,
    ) {
        let mut run = || -> rusqlite::Result<()> {
            let mut statement = from.prepare_cached(query)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                read(row)?;
            }
            Ok(())
        };
        if let Err(error) = run() {
            self.note(format!("{table}: {error}"));
        }
    }
}

/// Why a row is refused.
pub(super) fn refuse(what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Null, what.into())
}

/// A number of blocks or bytes.
pub(super) fn number(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    let value: u64 = row.get(column)?;
    if value <= MAX { Ok(value) } else { Err(refuse("a number is too large to be true")) }
}

/// A number that counts for nothing when it is not finite.
pub(super) fn real(row: &Row<'_>, column: &str) -> rusqlite::Result<f64> {
    row.get(column).map(|value: f64| if value.is_finite() { value } else { 0.0 })
}
