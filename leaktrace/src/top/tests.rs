//! The view without a terminal: keys in, pictures out.

mod fixture;

use std::collections::BTreeMap;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

use super::{App, Outcome, Picture, Tab, Theme};
use crate::census::growth::{Grown, Growth as HeapGrowth};
use crate::model::{Criteria, Ledger, Rate, Verdict};
use crate::recording::PastCollection;
use crate::report::{Facts, Generation, Pause, Report};
use fixture::{all, app, picture, press, report, screen, shown, text};

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
    let mut partly = next.clone();
    partly.gc.pauses_known = false;
    partly.gc.generations[0].collections = 20;
    app.receive(Picture { collections: vec![past], ..picture(next) });
    press(&mut app, "3");
    let rows = all(&text(&mut app, 80, 24));
    for part in ["500 ms", "250 ms", "collection is off", "over 10 ms", "4 ms"] {
        assert!(rows.contains(part), "{part}: {rows}");
    }
    assert!(!rows.contains("pauses are those of"), "{rows}");
    app.receive(picture(partly));
    let rows = all(&text(&mut app, 80, 24));
    for part in ["500 ms", "over 10 ms", "pauses are those of 12 collections of 20"] {
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
