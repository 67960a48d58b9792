//! The Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write as _};

/// Content type of the format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Most characters of a label's value: names come from the target.
const MAX_LABEL: usize = 200;

/// What a metric's value does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Rises only, from 0 at the attach.
    Counter,
    Gauge,
    Histogram,
}

/// A page of metrics.
#[derive(Debug, Default)]
pub(super) struct Page(String);

impl Page {
    /// Begins a metric; its samples follow.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Family { page: &mut self.0, name }
    }

    /// A metric of one sample without labels.
    pub(super) fn single(&mut self, name: &'static str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help).sample("", &[], value);
    }

    /// The same where the value is known.
    pub(super) fn known(&mut self, name: &'static str, kind: Kind, help: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.single(name, kind, help, value);
        }
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// A metric that is being written.
pub(super) struct Family<'a> {
    page: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    /// A sample; `suffix` is that of a histogram's parts.
    pub(super) fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.page, "{}{suffix}", self.name);
        for (index, (label, value)) in labels.iter().enumerate() {
            let _ = write!(self.page, "{}{label}=\"{}\"", if index == 0 { '{' } else { ',' }, escape(value));
        }
        let _ = writeln!(self.page, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// A label's value, of bounded length and without what would end it.
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for character in shorten(value).chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

/// The end of a long text, where a file has its name.
pub(super) fn shorten(value: &str) -> &str {
    let length = value.chars().count();
    match length.checked_sub(MAX_LABEL) {
        Some(cut) if cut > 0 => value.char_indices().nth(cut).map_or(value, |(at, _)| &value[at..]),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_with_labels() {
        let mut page = Page::default();
        page.family("a_bytes", Kind::Gauge, "What it is.").sample(
            "",
            &[("file", "a\"\\\n\u{1b}b"), ("line", "3")],
            1.5,
        );
        page.single("b_total", Kind::Counter, "Another.", 7);
        assert_eq!(
            page.into_text(),
            "# HELP a_bytes What it is.\n# TYPE a_bytes gauge\na_bytes{file=\"a\\\"\\\\\\n\u{fffd}b\",line=\"3\"} 1.5\n\
             # HELP b_total Another.\n# TYPE b_total counter\nb_total 7\n"
        );
    }

    #[test]
    fn long_values_keep_their_end() {
        let long = format!("{}é.py", "x".repeat(300));
        assert_eq!(shorten(&long).chars().count(), MAX_LABEL);
        assert!(shorten(&long).ends_with("é.py"));
        assert_eq!(shorten("a.py"), "a.py");
    }
}
