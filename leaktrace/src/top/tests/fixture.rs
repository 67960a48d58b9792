//! A report to look around in, keys to press and a screen to read.

use std::collections::BTreeMap;
use std::sync::Arc;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::model::verdict::{CollectorTest, Reason};
use crate::model::{Criteria, Evidence, FrameKind, FrameRef, Growth, Ledger, Rate, Root, Stacks, Verdict};
use crate::report::{Facts, Line, Outlook, Report, Series, SiteReport};
use crate::top::{App, Outcome, Picture, Theme, draw};

pub(super) fn evidence() -> Evidence {
    Evidence {
        cohorts: 1,
        cohorts_observed: 1,
        oldest_survivor_seconds: 1.0,
        freed_share: 0.0,
        observed_seconds: 1.0,
        mature_seconds: 1.0,
        mature_blocks: 1,
        retention: None,
        balance: None,
        steadiness: None,
        collector: CollectorTest::NotApplied,
        reason: Reason::TooYoung,
        by_line: false,
        by_stack: false,
    }
}

/// A line with one stack of each of the callers, which share its numbers.
struct Made {
    function: &'static str,
    line: u32,
    verdict: Verdict,
    bytes: u64,
    blocks: u64,
    rate: f64,
    callers: &'static [&'static str],
}

const LINES: [Made; 4] = [
    Made {
        function: "page",
        line: 12,
        verdict: Verdict::Growing,
        bytes: 6_000,
        blocks: 60,
        rate: 100.0,
        callers: &["step", "handle"],
    },
    Made {
        function: "cache",
        line: 30,
        verdict: Verdict::Plateau,
        bytes: 9_000,
        blocks: 9,
        rate: 0.0,
        callers: &["main"],
    },
    Made {
        function: "evil\x1b[2J",
        line: 40,
        verdict: Verdict::Unknown,
        bytes: 50,
        blocks: 5,
        rate: 0.0,
        callers: &["main"],
    },
    Made {
        function: "temporary",
        line: 50,
        verdict: Verdict::Churn,
        bytes: 7,
        blocks: 1,
        rate: 0.0,
        callers: &["main"],
    },
];

/// A report with [`LINES`], each level `factor` times as high.
pub(super) fn report(factor: u64) -> Report {
    let mut report = Report::build(&Ledger::new(0, 1 << 20), &Facts::default(), &Criteria::default());
    let mut stacks = Stacks::default();
    let file = "/srv/application/services/app.py";
    for made in LINES {
        let growth = Growth {
            bytes_per_second: Rate { estimate: made.rate, low: made.rate, high: made.rate },
            blocks_per_second: Rate::default(),
        };
        let index = report.lines.len();
        let callers = made.callers.len() as u64;
        let mut sites = Vec::new();
        for (nth, caller) in made.callers.iter().enumerate() {
            let frame = |function, line| FrameRef { kind: FrameKind::Python, function, file, line };
            let stack = stacks.intern(&[frame(made.function, made.line), frame(caller, 99)], Root::Whole);
            sites.push(report.sites.len());
            report.sites.push(SiteReport {
                number: report.sites.len() + 100,
                verdict: made.verdict,
                domain: "obj",
                live_bytes: made.bytes / callers * factor,
                live_blocks: made.blocks / callers * factor,
                allocated_bytes: made.bytes * 10 / callers,
                allocated_blocks: made.blocks * 10 / callers,
                freed_blocks: 0,
                lost_blocks: 0,
                growth,
                evidence: evidence(),
                stack: stacks.stack(stack),
                truncated: false,
                stack_lost: false,
                line: index,
                threads: if nth == 0 { vec![7] } else { vec![7, 8] },
                series: Series::default(),
            });
        }
        report.lines.push(Line {
            verdict: made.verdict,
            domain: "obj",
            function: made.function.into(),
            functions: vec![made.function.into()],
            file: file.into(),
            line: made.line,
            stack_lost: false,
            live_bytes: made.bytes * factor,
            live_blocks: made.blocks * factor,
            allocated_bytes: made.bytes * 10,
            allocated_blocks: made.blocks * 10,
            freed_blocks: 0,
            lost_blocks: 0,
            growth,
            evidence: evidence(),
            sites,
            holders: Vec::new(),
            series: Series { live_bytes: vec![0, made.bytes], live_blocks: vec![0, made.blocks] },
        });
    }
    report.totals.live_bytes = report.lines.iter().map(|line| line.live_bytes).sum();
    report.totals.live_blocks = report.lines.iter().map(|line| line.live_blocks).sum();
    report.headline.outlook = Outlook::Leaking;
    report
}

pub(super) fn picture(report: Report) -> Picture {
    Picture { report: Arc::new(report), names: BTreeMap::from([(7, "worker".to_owned())]), collections: Vec::new() }
}

pub(super) fn app(theme: Theme) -> App {
    let mut app = App::new(theme, "pid 4242", true);
    app.receive(picture(report(1)));
    app
}

pub(super) fn press(app: &mut App, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\t' => KeyCode::Tab,
            '↓' => KeyCode::Down,
            '→' => KeyCode::Right,
            '←' => KeyCode::Left,
            '⇤' => KeyCode::BackTab,
            key => KeyCode::Char(key),
        };
        assert_eq!(app.key(KeyEvent::new(code, KeyModifiers::NONE)), Outcome::Continue, "{key:?}");
    }
}

pub(super) fn screen(app: &mut App, columns: u16, rows: u16) -> Terminal<TestBackend> {
    app.resize(columns, rows);
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| draw(app, frame)).unwrap();
    terminal
}

pub(super) fn text(app: &mut App, columns: u16, rows: u16) -> Vec<String> {
    let terminal = screen(app, columns, rows);
    let cells = terminal.backend().buffer().content();
    let row = |cells: &[ratatui::buffer::Cell]| cells.iter().map(ratatui::buffer::Cell::symbol).collect::<String>();
    cells.chunks(columns.into()).map(|cells| row(cells).trim_end().to_owned()).collect()
}

/// The functions of the lines that are shown, in order.
pub(super) fn shown(app: &mut App) -> Vec<&'static str> {
    let rows = text(app, 120, 40);
    let named = |row: &String| {
        LINES
            .iter()
            .map(|made| made.function.split('\x1b').next().unwrap())
            .find(|f| row.ends_with(f) || row.contains(&format!(" {f}\u{fffd}")))
    };
    rows[5..36].iter().filter(|row| matches!(row.chars().nth(1), Some('+' | '-'))).filter_map(named).collect()
}

pub(super) fn all(rows: &[String]) -> String {
    rows.join("\n")
}
