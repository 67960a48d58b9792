//! The view without a terminal: keys in, pictures out.

use std::collections::BTreeMap;
use std::sync::Arc;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

use super::{App, Outcome, Picture, Tab, Theme, draw};
use crate::census::growth::{Grown, Growth as HeapGrowth};
use crate::model::verdict::{CollectorTest, Reason};
use crate::model::{Criteria, Evidence, FrameKind, FrameRef, Growth, Ledger, Rate, Root, Stacks, Verdict};
use crate::recording::PastCollection;
use crate::report::{Facts, Generation, Line, Outlook, Pause, Report, Series, SiteReport};

fn evidence() -> Evidence {
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
fn report(factor: u64) -> Report {
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

fn picture(report: Report) -> Picture {
    Picture { report: Arc::new(report), names: BTreeMap::from([(7, "worker".to_owned())]), collections: Vec::new() }
}

fn app(theme: Theme) -> App {
    let mut app = App::new(theme, "pid 4242", true);
    app.receive(picture(report(1)));
    app
}

fn press(app: &mut App, keys: &str) {
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

fn screen(app: &mut App, columns: u16, rows: u16) -> Terminal<TestBackend> {
    app.resize(columns, rows);
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| draw(app, frame)).unwrap();
    terminal
}

fn text(app: &mut App, columns: u16, rows: u16) -> Vec<String> {
    let terminal = screen(app, columns, rows);
    let cells = terminal.backend().buffer().content();
    let row = |cells: &[ratatui::buffer::Cell]| cells.iter().map(ratatui::buffer::Cell::symbol).collect::<String>();
    cells.chunks(columns.into()).map(|cells| row(cells).trim_end().to_owned()).collect()
}

/// The functions of the lines that are shown, in order.
fn shown(app: &mut App) -> Vec<&'static str> {
    let rows = text(app, 120, 40);
    let named = |row: &String| {
        LINES
            .iter()
            .map(|made| made.function.split('\x1b').next().unwrap())
            .find(|f| row.ends_with(f) || row.contains(&format!(" {f}\u{fffd}")))
    };
    rows[5..36].iter().filter(|row| matches!(row.chars().nth(1), Some('+' | '-'))).filter_map(named).collect()
}

fn all(rows: &[String]) -> String {
    rows.join("\n")
}

#[test]
fn lines_are_sorted_by_what_is_asked() {
    let mut app = app(Theme::Mono);
    assert_eq!(shown(&mut app), ["page", "cache", "evil"]);
    press(&mut app, "s");
    assert_eq!(shown(&mut app), ["cache", "page", "evil"], "live bytes: 9000, 6000, 50");
    press(&mut app, "s");
    assert_eq!(shown(&mut app), ["page", "cache", "evil"], "live blocks: 60, 9, 5");
    press(&mut app, "S");
    assert_eq!(shown(&mut app), ["evil", "cache", "page"]);
    press(&mut app, "Ss");
    assert_eq!(shown(&mut app), ["cache", "page", "evil"], "allocated: ten times the bytes");
    press(&mut app, "s");
    assert_eq!(shown(&mut app), ["page", "cache", "evil"], "without a mark there is no growth since it");
    press(&mut app, "c");
    assert_eq!(shown(&mut app), ["page", "cache", "evil", "temporary"]);
}

#[test]
fn a_filter_works_while_it_is_typed_and_can_be_given_up() {
    let mut app = app(Theme::Mono);
    press(&mut app, "fCACHE");
    assert_eq!(shown(&mut app), ["cache"]);
    assert!(text(&mut app, 80, 24)[23].starts_with("filter: CACHE"));
    press(&mut app, "\n");
    assert!(text(&mut app, 80, 24)[3].contains("filter CACHE"));
    press(&mut app, "fgrowing");
    assert_eq!(shown(&mut app), ["page"]);
    press(&mut app, "\x1b");
    assert_eq!(shown(&mut app), ["cache"], "the filter before holds again");
    press(&mut app, "\x1b");
    assert_eq!(shown(&mut app).len(), 3);
    press(&mut app, "fnothing like it\n");
    assert!(all(&text(&mut app, 80, 24)).contains("no line matches"));
}

#[test]
fn a_search_goes_round_and_is_marked() {
    let mut app = app(Theme::Colour);
    press(&mut app, "/APP.PY\n");
    let selected = |app: &mut App| text(app, 80, 24)[5..].iter().position(|row| row.starts_with('>')).unwrap();
    assert_eq!(selected(&mut app), 0);
    press(&mut app, "n");
    assert_eq!(selected(&mut app), 1);
    press(&mut app, "nn");
    assert_eq!(selected(&mut app), 0, "from the last to the first");
    press(&mut app, "N");
    assert_eq!(selected(&mut app), 2);
    let terminal = screen(&mut app, 80, 24);
    let marked = terminal.backend().buffer().content().iter().filter(|cell| cell.bg == Color::Yellow).count();
    assert_eq!(marked, 3 * "app.py".len());
    press(&mut app, "/absent\n");
    assert!(text(&mut app, 80, 24)[23].contains("not found: absent"));
}

#[test]
fn lines_unfold_into_stacks_and_these_into_frames() {
    let mut app = app(Theme::Mono);
    press(&mut app, "\n");
    let rows = text(&mut app, 120, 40);
    assert!(rows[6].contains("from /srv/application/services/app.py:99 step"), "{}", all(&rows));
    assert!(rows[7].contains("app.py:99 handle"));
    press(&mut app, "↓\n↓");
    let rows = text(&mut app, 120, 40);
    assert!(
        rows[7].starts_with('>') && rows[7].ends_with("/srv/application/services/app.py:12 page"),
        "{}",
        all(&rows)
    );
    assert!(rows[8].ends_with("app.py:99 step"));
    // To what it is in, fold that, and so on.
    press(&mut app, "←←←←");
    assert_eq!(shown(&mut app), ["page", "cache", "evil"]);
    assert!(!all(&text(&mut app, 120, 40)).contains(" from "));
    press(&mut app, "→↓→z");
    assert!(!all(&text(&mut app, 120, 40)).contains(" from "));
}

#[test]
fn growth_since_the_mark() {
    let mut app = app(Theme::Mono);
    press(&mut app, "b");
    app.receive(picture(report(3)));
    let rows = text(&mut app, 80, 24);
    let row = |rows: &[String], what: &str| rows.iter().find(|row| row.contains(what)).unwrap().clone();
    // 3 * 6000 - 6000 B and 3 * 60 - 60 blocks; 3 * 9000 - 9000 and 3 * 9 - 9.
    assert!(row(&rows, "app.py:12").contains("+11.7 KiB +120"), "{}", all(&rows));
    assert!(row(&rows, "app.py:30").contains("+17.6 KiB +18"), "{}", all(&rows));
    assert!(rows[1].contains(", +29.4 KiB since mark"), "2 * 15057 B: {}", rows[1]);
    press(&mut app, "ssss");
    assert_eq!(shown(&mut app), ["cache", "page", "evil"]);
    app.receive(picture(report(0)));
    press(&mut app, "c");
    assert!(row(&text(&mut app, 80, 24), "app.py:12").contains("-5.86 KiB -60"));
    press(&mut app, "B");
    assert!(!all(&text(&mut app, 80, 24)).contains("since mark"));
}

#[test]
fn a_pause_keeps_the_picture_and_says_how_old_it_is() {
    let mut app = app(Theme::Mono);
    app.tick(10.0);
    press(&mut app, "p");
    app.receive(picture(report(2)));
    app.tick(17.5);
    let rows = text(&mut app, 80, 24);
    assert!(
        rows[3].contains("PAUSED 17 s") && all(&rows).contains("all: 15,057 B live in 75 blocks"),
        "{}",
        all(&rows)
    );
    press(&mut app, " ");
    let rows = text(&mut app, 80, 24);
    assert!(!rows[3].contains("PAUSED") && all(&rows).contains("all: 30,114 B live in 150 blocks"), "{}", all(&rows));
}

#[test]
fn the_cursor_stays_at_the_worst_line_until_another_is_chosen() {
    let mut app = app(Theme::Mono);
    assert!(!text(&mut app, 80, 24)[5].contains("cache"));
    let mut next = report(1);
    next.lines[1].verdict = Verdict::Growing;
    next.lines[1].growth.bytes_per_second.estimate = 1e6;
    app.receive(picture(next));
    let rows = text(&mut app, 80, 24);
    assert!(rows[5].starts_with('>') && rows[5].contains("cache"), "{}", all(&rows));
}

#[test]
fn the_cursor_follows_its_row() {
    let mut app = app(Theme::Mono);
    press(&mut app, "↓");
    let mut next = report(1);
    next.lines[1].verdict = Verdict::Growing;
    next.lines[1].growth.bytes_per_second.estimate = 1e6;
    app.receive(picture(next));
    let rows = text(&mut app, 80, 24);
    assert!(rows[5].starts_with('>') && rows[5].contains("cache"), "{}", all(&rows));
    // Home: the first row from now on, whichever that is.
    press(&mut app, "g");
    app.receive(picture(report(1)));
    let rows = text(&mut app, 80, 24);
    assert!(rows[5].starts_with('>') && !rows[5].contains("cache"), "{}", all(&rows));
    // Far below what there is.
    press(&mut app, "Gjjj");
    assert!(all(&text(&mut app, 80, 24)).contains('>'));
}

#[test]
fn every_size_shows_what_it_can() {
    for theme in [Theme::Colour, Theme::Mono, Theme::Plain] {
        for (columns, rows) in [(80, 24), (120, 40), (60, 15), (40, 10), (300, 100)] {
            let mut app = app(theme);
            for _ in Tab::ALL {
                let screen = text(&mut app, columns, rows);
                assert!(screen[0].starts_with("LEAKING"), "{}", all(&screen));
                assert!(screen[2].contains("coverage"), "{}", all(&screen));
                press(&mut app, "\t");
            }
            let screen = text(&mut app, columns, rows);
            assert!(all(&screen).contains("page"), "{columns}x{rows}: {}", all(&screen));
            press(&mut app, "b?");
            let _ = text(&mut app, columns, rows);
        }
        for (columns, rows) in [(39, 9), (39, 24), (80, 9), (1, 1)] {
            let screen = text(&mut app(theme), columns, rows);
            assert!(screen[0].starts_with('n') && screen[1..].iter().all(String::is_empty), "{}", all(&screen));
        }
    }
}

#[test]
fn colours_only_where_they_are_wanted() {
    let styles = |theme| {
        let mut app = app(theme);
        let terminal = screen(&mut app, 80, 24);
        let cells = terminal.backend().buffer().content().to_vec();
        let coloured = cells.iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        (
            coloured,
            cells.iter().any(|cell| cell.modifier.contains(Modifier::REVERSED)),
            cells.iter().any(|cell| !cell.modifier.is_empty()),
        )
    };
    assert_eq!(styles(Theme::Colour), (true, true, true));
    assert_eq!(styles(Theme::Mono), (false, true, true));
    assert_eq!(styles(Theme::Plain), (false, false, false));
}

#[test]
fn text_of_the_target_steers_no_terminal() {
    let mut app = app(Theme::Mono);
    let mut next = report(1);
    next.heap = Some(HeapGrowth {
        seconds: 5.0,
        censuses: 2,
        types: vec![grown("bad\x1b]0;title\x07", 1, 9)],
        containers: Vec::new(),
        rss_rate: Rate::default(),
        live_rate: Rate::default(),
        cause: None,
        warm_up: false,
    });
    app.receive(Picture { names: BTreeMap::from([(7, "a\x1b[31m".to_owned())]), ..picture(next) });
    for _ in Tab::ALL {
        press(&mut app, "↓");
        assert!(!all(&text(&mut app, 120, 40)).contains('\x1b'));
        press(&mut app, "\t");
    }
}

fn grown(name: &str, first: u64, last: u64) -> Grown {
    Grown { name: name.to_owned(), first, last, first_bytes: first * 10, last_bytes: last * 10, rate: Rate::default() }
}

#[test]
fn types_say_what_grew_or_why_it_is_not_known() {
    let mut app = app(Theme::Mono);
    press(&mut app, "2");
    assert!(all(&text(&mut app, 80, 24)).contains("No two censuses"));
    let heap = |last| HeapGrowth {
        seconds: 5.0,
        censuses: 2,
        types: vec![grown("app.Session", 10, last), grown("dict", 100, 101)],
        containers: Vec::new(),
        rss_rate: Rate::default(),
        live_rate: Rate::default(),
        cause: None,
        warm_up: false,
    };
    let with = |last| picture(Report { heap: Some(heap(last)), ..report(1) });
    app.receive(with(40));
    press(&mut app, "b");
    app.receive(with(75));
    let rows = text(&mut app, 80, 24);
    let row: Vec<&str> = rows[5].split_whitespace().collect();
    assert_eq!(row, [">", "75", "+65", "0", "750", "B", "+650", "B", "+35", "app.Session"], "{}", all(&rows));
    assert!(all(&rows).contains("75 objects, 750 B; 10 and 100 B at first"));
    press(&mut app, "fdict\n");
    assert!(text(&mut app, 80, 24)[5].ends_with("dict"));
}

#[test]
fn threads_own_what_no_other_was_seen_with() {
    let mut app = app(Theme::Mono);
    press(&mut app, "⇤");
    let rows = text(&mut app, 80, 24);
    // Thread 7: 3000 of 6000 B at `page`, whose other half thread 8 shares; 9000, 50 and 7 B.
    let row: Vec<&str> = rows[5].split_whitespace().collect();
    assert_eq!(row, [">", "7", "worker", "5", "2", "1", "11.8", "KiB", "45"], "{}", all(&rows));
    assert!(all(&rows).contains("12,057 B live in 45 blocks"));
    press(&mut app, "↓\n");
    assert_eq!(shown(&mut app), ["page"], "thread 8 was seen only there");
    press(&mut app, "\n");
    assert!(!all(&text(&mut app, 80, 24)).contains("step"));
    press(&mut app, "\x1b");
    assert_eq!(shown(&mut app).len(), 3);
}

#[test]
fn the_collector_is_told() {
    let mut app = app(Theme::Mono);
    let mut next = report(1);
    next.gc.pauses_known = true;
    next.gc.enabled = Some(false);
    next.gc.pause_bounds_seconds = vec![0.001, 0.01];
    next.gc.generations = vec![Generation {
        generation: 0,
        collections: 12,
        collected: 5,
        uncollectable: 0,
        pause_seconds: Pause { total: 0.5, max: 0.25 },
        pause_counts: vec![3, 8, 1],
    }];
    let past = PastCollection { seconds: 3.0, generation: 2, pause_seconds: Some(0.004) };
    app.receive(Picture { collections: vec![past], ..picture(next) });
    press(&mut app, "3");
    let rows = all(&text(&mut app, 80, 24));
    for part in ["500 ms", "250 ms", "collection is off", "over 10 ms", "4 ms"] {
        assert!(rows.contains(part), "{part}: {rows}");
    }
}

#[test]
fn keys_that_end_it() {
    let control = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
    let mut app = app(Theme::Mono);
    assert_eq!(app.key(control('z')), Outcome::Suspend);
    assert_eq!(app.key(control('c')), Outcome::Quit);
    press(&mut app, "?q");
    assert_eq!(app.key(KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE)), Outcome::Quit);
    press(&mut app, "/q\n");
    assert_eq!(app.key(KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE)), Outcome::Quit);
}

#[test]
fn nothing_to_show_is_no_reason_to_fail() {
    let mut app = App::new(Theme::Colour, "pid 1", true);
    press(&mut app, "↓\n/x\nnNsSbBcz→←?p");
    for _ in Tab::ALL {
        press(&mut app, "\t");
        assert!(text(&mut app, 80, 24)[0].contains("waiting for the first look"));
    }
    let empty = Report::build(&Ledger::new(0, 0), &Facts::default(), &Criteria::default());
    app.receive(picture(empty));
    press(&mut app, "pp");
    for keys in ["\t↓\n", "\t↓\n", "\t↓\n", "\t↓\n"] {
        press(&mut app, keys);
        let _ = text(&mut app, 80, 24);
    }
}
