//! Opens the file of a recording for reading. It may be anything.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tempfile::TempDir;

use super::{APPLICATION_ID, RecordingError, VERSION};

/// How an SQLite file begins (sqlite.org/fileformat.html, 1.3).
const MAGIC: &[u8] = b"SQLite format 3\0";
/// Longest text that is read.
const MAX_TEXT: i32 = 1 << 26;
const TABLES: [&str; 13] = [
    "document",
    "text",
    "frame",
    "stack",
    "site",
    "scan",
    "sample",
    "gc_sample",
    "collection",
    "census",
    "type",
    "type_sample",
    "source",
];

/// A recording open for reading.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: Connection,
    /// Holds the copy that is read where the file's own folder cannot be written.
    _copy: Option<TempDir>,
}

/// Whether a file looks like a recording: an SQLite file, as no other file of leaktrace is.
pub fn is_one(path: &Path) -> bool {
    let mut head = [0; MAGIC.len()];
    let read = fs::File::open(path).and_then(|mut file| io::Read::read_exact(&mut file, &mut head));
    read.is_ok() && head == MAGIC
}

pub(super) fn open(path: &Path) -> Result<Opened, RecordingError> {
    let failure = |source| RecordingError::Open { path: path.to_owned(), source };
    let foreign = || RecordingError::Foreign { path: path.to_owned() };
    if !fs::metadata(path).map_err(failure)?.is_file() {
        return Err(foreign());
    }
    fs::File::open(path).map_err(failure)?;
    if !is_one(path) {
        return Err(foreign());
    }
    // A journal beside the file is part of it. SQLite reads it only where it may write its index beside it.
    let (connection, copy) = if let Ok(connection) = connect(path) {
        (connection, None)
    } else {
        let folder = tempfile::tempdir().map_err(failure)?;
        let copy = folder.path().join("recording");
        fs::copy(path, &copy).map_err(failure)?;
        let journal = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push("-wal");
            PathBuf::from(name)
        };
        if journal(path).exists() {
            fs::copy(journal(path), journal(&copy)).map_err(failure)?;
        }
        let damaged =
            |error: rusqlite::Error| RecordingError::Damaged { path: path.to_owned(), what: error.to_string() };
        (connect(&copy).map_err(damaged)?, Some(folder))
    };
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0)).unwrap_or(0);
    if number("application_id") != APPLICATION_ID {
        return Err(foreign());
    }
    let version = number("user_version");
    if version > VERSION {
        return Err(RecordingError::Newer { path: path.to_owned(), version });
    }
    let damaged = |what: String| RecordingError::Damaged { path: path.to_owned(), what };
    for table in TABLES {
        // A view of that name could run for ever.
        let kind = "SELECT type FROM sqlite_schema WHERE name = ?";
        let kind = connection.query_row(kind, [table], |row| row.get::<_, String>(0));
        if kind.as_deref().map_err(|error| damaged(error.to_string()))? != "table" {
            return Err(damaged(format!("it has no table {table}")));
        }
    }
    Ok(Opened { connection, _copy: copy })
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let read_only = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(path, flags).or_else(|_| Connection::open_with_flags(path, read_only))?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_TEXT)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.set_prepared_statement_cache_capacity(32);
    // This is what needs the journal.
    let look = || connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    if let Err(error) = look() {
        if error.sqlite_error_code() != Some(ErrorCode::DatabaseCorrupt) {
            return Err(error);
        }
        // A file that was cut is refused as a whole, unless this says that somebody means to repair it (SQLite 3.50 btree.c, lockBtree).
        connection.pragma_update(None, "writable_schema", true)?;
        look()?;
    }
    Ok(connection)
}
