//! A flame graph as SVG.

use std::io::{self, Write};

use inferno::flamegraph::{Options, TextTruncateDirection, from_lines};

use super::{Export, collapsed};

pub(super) fn write(export: &Export<'_>, out: &mut dyn Write) -> io::Result<()> {
    let lines = collapsed::lines(export);
    if lines.is_empty() {
        let what = format!("there is nothing to draw: {} is 0 everywhere", export.value.name());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let mut options = Options::default();
    export.value.title().clone_into(&mut options.title);
    options.subtitle = Some(match export.before {
        Some(_) => format!("{}: red grew, blue shrank", export.process()),
        None => export.process(),
    });
    options.count_name = export.value.unit().replace("count", "blocks");
    options.deterministic = true;
    // The end of a frame's text tells the file and the line.
    options.text_truncate_direction = TextTruncateDirection::Right;
    from_lines(&mut options, lines.iter().map(String::as_str), out)
}
