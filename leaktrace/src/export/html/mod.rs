//! The report as one page of HTML that needs nothing else: no network, no server, no other file.
//!
//! The page holds the numbers as JSON and a script that draws them. Texts of the target come into it only as that JSON,
//! and from it into the page only as text, never as markup; the policy in its head lets no other script run.

mod document;

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};

use self::document::Document;
use super::Export;
use crate::report::{SourceReader, Style, text};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = concat!(include_str!("base.css"), include_str!("parts.css"));
/// In the order in which each uses those before it.
const SCRIPT: &str = concat!(
    "\"use strict\";\n",
    include_str!("units.js"),
    include_str!("dom.js"),
    include_str!("chart.js"),
    include_str!("flame.js"),
    include_str!("table.js"),
    include_str!("leaks.js"),
    include_str!("page.js"),
);
/// Lines in the text for browsers without a script.
const TOP: usize = 20;

pub(super) fn write(export: &Export<'_>, out: &mut dyn Write) -> io::Result<()> {
    let history = export.recording.history();
    let data = serde_json::to_string(&Document::of(export, &history))?;
    let mut plain = Vec::new();
    let mut source = SourceReader::recorded(export.recording.sources());
    text::write(export.report, TOP, Style::PLAIN, &mut source, &mut plain)?;
    let title = format!("leaktrace: {}", export.process());
    let parts = [
        ("title", escaped(&title)),
        ("policy", policy()),
        ("style", STYLE.to_owned()),
        ("plain", escaped(&String::from_utf8_lossy(&plain))),
        // In JSON "<" is only in texts; as an escape it can end no element and begin no comment.
        ("data", data.replace('<', "\\u003c")),
        ("script", SCRIPT.to_owned()),
    ];
    // A text that looks like a place is not filled in: each part is written once, in order.
    let mut rest = PAGE;
    for (name, part) in parts {
        let (before, after) =
            rest.split_once(&format!("{{{{{name}}}}}")).expect("the page has each part, in this order");
        out.write_all(before.as_bytes())?;
        out.write_all(part.as_bytes())?;
        rest = after;
    }
    out.write_all(rest.as_bytes())
}

/// Our script and our style, nothing else, and no request.
fn policy() -> String {
    let hash = |text: &str| format!("'sha256-{}'", BASE64.encode(Sha256::digest(text)));
    let (script, style) = (hash(SCRIPT), hash(STYLE));
    format!("default-src 'none'; script-src {script}; style-src {style}; base-uri 'none'; form-action 'none'")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_each_part_once_and_asks_for_nothing() {
        for name in ["title", "policy", "style", "plain", "data", "script"] {
            assert_eq!(PAGE.matches(&format!("{{{{{name}}}}}")).count(), 1, "{name}");
        }
        for asset in [PAGE, STYLE, SCRIPT] {
            for word in ["https:", "url(", "innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("] {
                assert!(!asset.contains(word), "{word}");
            }
        }
        assert!(!SCRIPT.contains("</script"), "it would end the script");
        assert_eq!(escaped("<a b=\"c\">&"), "&lt;a b=&quot;c&quot;&gt;&amp;");
    }
}
