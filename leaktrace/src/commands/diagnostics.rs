//! What `-v` shows: the diagnostics of the BPF programs, and those of our own.

use std::io::Write as _;
use std::time::Instant;

use log::LevelFilter;

/// From now on diagnostics go to stderr, a line each, with the time since.
pub(super) fn to_stderr() {
    let begun = Instant::now();
    let mut logger = env_logger::Builder::new();
    logger.filter_level(LevelFilter::Debug);
    // Of the library that loads the programs only what goes wrong.
    for library in ["aya", "aya_obj"] {
        logger.filter_module(library, LevelFilter::Warn);
    }
    logger.format(move |out, record| {
        writeln!(out, "leaktrace: {:.3} s  {}", begun.elapsed().as_secs_f64(), record.args())
    });
    // If there is one already, it is as good.
    let _ = logger.try_init();
}
