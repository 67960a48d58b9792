//! One line of doctor's output.

use std::fmt::Write as _;

use crate::exit::ExitCode;

/// What was found out about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    subject: &'static str,
    finding: String,
    verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// Works, but less well; what to do.
    Warn(String),
    /// Stands in the way: the code that a run would end with, and what to do.
    No(ExitCode, String),
}

impl Check {
    pub(super) fn ok(subject: &'static str, finding: impl Into<String>) -> Self {
        Self { subject, finding: finding.into(), verdict: Verdict::Ok }
    }

    pub(super) fn warn(subject: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { subject, finding: finding.into(), verdict: Verdict::Warn(advice.into()) }
    }

    pub(super) fn no(
        subject: &'static str,
        finding: impl Into<String>,
        code: ExitCode,
        advice: impl Into<String>,
    ) -> Self {
        Self { subject, finding: finding.into(), verdict: Verdict::No(code, advice.into()) }
    }

    /// The code of a run that would fail on this.
    pub(super) fn failure(&self) -> Option<ExitCode> {
        if let Verdict::No(code, _) = self.verdict { Some(code) } else { None }
    }
}

/// Aligned lines below a title, advice below what it is about.
pub(super) fn render(title: &str, checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.subject.len()).max().unwrap_or(0);
    let mut text = format!("{title}\n");
    for Check { subject, finding, verdict } in checks {
        let (mark, advice) = match verdict {
            Verdict::Ok => ("ok", ""),
            Verdict::Warn(advice) => ("warn", advice.as_str()),
            Verdict::No(_, advice) => ("no", advice.as_str()),
        };
        let _ = writeln!(text, "  {mark:<4}  {subject:<width$}  {finding}");
        if !advice.is_empty() {
            let _ = writeln!(text, "        {:<width$}  -> {advice}", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_aligned() {
        let checks = [
            Check::ok("kernel", "6.1.0"),
            Check::warn("tracefs", "not mounted", "mount it"),
            Check::no("BTF", "missing", ExitCode::UnsupportedKernel, "another kernel"),
        ];
        assert_eq!(
            render("this machine", &checks),
            "this machine\n  \
               ok    kernel   6.1.0\n  \
               warn  tracefs  not mounted\n                 -> mount it\n  \
               no    BTF      missing\n                 -> another kernel\n"
        );
        let failures: Vec<_> = checks.iter().map(Check::failure).collect();
        assert_eq!(failures, [None, None, Some(ExitCode::UnsupportedKernel)]);
    }
}
