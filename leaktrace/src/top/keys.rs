//! What keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::app::{App, Asked, Prompt, Tab};
use super::baseline::Baseline;
use super::draw;
use super::rows::{Key, Row};
use super::sort::{SiteSort, TypeSort};

/// What a key asks of who runs the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Continue,
    Quit,
    /// Ctrl-Z.
    Suspend,
}

/// Longest text that is searched or filtered for.
const LONGEST: usize = 200;

impl App {
    /// A key was pressed.
    pub fn key(&mut self, key: KeyEvent) -> Outcome {
        if key.kind == KeyEventKind::Release {
            return Outcome::Continue;
        }
        self.message = None;
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return Outcome::Quit,
                KeyCode::Char('z') => return Outcome::Suspend,
                _ => {}
            }
        }
        if self.prompt.is_some() {
            self.type_in(key);
        } else if self.help {
            // Any key leads back; q does not end the whole by the way.
            self.help = false;
        } else if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) {
            self.page(key.code);
        } else if key.code == KeyCode::Char('q') {
            return Outcome::Quit;
        } else if !self.command(key.code) {
            self.walk(key.code);
        }
        self.settle();
        Outcome::Continue
    }

    fn type_in(&mut self, key: KeyEvent) {
        let Some(prompt) = &mut self.prompt else { return };
        match key.code {
            KeyCode::Enter => {
                let prompt = self.prompt.take();
                if prompt.is_some_and(|prompt| prompt.asked == Asked::Search) {
                    self.find(0, true);
                }
                return;
            }
            KeyCode::Esc => {
                prompt.text = std::mem::take(&mut prompt.before);
                let (asked, text) = (prompt.asked, prompt.text.clone());
                self.prompt = None;
                self.set(asked, text);
                return;
            }
            KeyCode::Backspace => {
                prompt.text.pop();
            }
            KeyCode::Char('u') if key.modifiers.contains(KeyModifiers::CONTROL) => prompt.text.clear(),
            KeyCode::Char(c) if !c.is_control() && prompt.text.chars().count() < LONGEST => prompt.text.push(c),
            _ => {}
        }
        // What is typed works at once.
        let (asked, text) = (prompt.asked, prompt.text.clone());
        self.set(asked, text);
    }

    fn set(&mut self, asked: Asked, text: String) {
        match asked {
            Asked::Search => self.search = text,
            Asked::Filter => self.filter = text,
        }
    }

    fn ask(&mut self, asked: Asked) {
        let before = match asked {
            Asked::Search => self.search.clone(),
            Asked::Filter => self.filter.clone(),
        };
        self.prompt = Some(Prompt { asked, text: String::new(), before });
        self.set(asked, String::new());
    }

    /// Whether the key was one that does not move the cursor.
    fn command(&mut self, code: KeyCode) -> bool {
        let marked = self.baseline.is_some();
        match code {
            KeyCode::Char('?') | KeyCode::F(1) => self.help = true,
            KeyCode::Tab => self.tab = self.tab.step(1),
            KeyCode::BackTab => self.tab = self.tab.step(Tab::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='4') => self.tab = Tab::ALL[digit as usize - '1' as usize],
            KeyCode::Char('s') if self.tab == Tab::Sites => self.site_sort = self.site_sort.next(marked),
            KeyCode::Char('s') if self.tab == Tab::Types => self.type_sort = self.type_sort.next(marked),
            KeyCode::Char('S') => self.reversed[self.tab as usize] ^= true,
            KeyCode::Char('/') => self.ask(Asked::Search),
            KeyCode::Char('f') => self.ask(Asked::Filter),
            KeyCode::Char('n') => self.find(1, true),
            KeyCode::Char('N') => self.find(1, false),
            KeyCode::Char('p' | ' ') => self.pause(),
            KeyCode::Char('c') => self.churn ^= true,
            KeyCode::Char('b') => self.mark(),
            KeyCode::Char('B') => self.unmark(),
            KeyCode::Char('z') => self.unfolded.clear(),
            KeyCode::Esc => {
                self.filter.clear();
                self.search.clear();
                self.thread = None;
            }
            _ => return false,
        }
        true
    }

    fn mark(&mut self) {
        let baseline = self.report().map(Baseline::of);
        match baseline {
            Some(baseline) => {
                self.baseline = Some(baseline);
                self.message = Some("marked: what is more than now is shown from the next look on".to_owned());
            }
            None => self.message = Some("nothing to mark yet".to_owned()),
        }
    }

    fn unmark(&mut self) {
        self.baseline = None;
        if self.site_sort == SiteSort::Since {
            self.site_sort = SiteSort::default();
        }
        if self.type_sort == TypeSort::Since {
            self.type_sort = TypeSort::default();
        }
    }

    /// Moves the cursor, folds and unfolds.
    fn walk(&mut self, code: KeyCode) {
        let rows = self.own_rows();
        self.cursor().follow(&rows, usize::MAX);
        let (index, page) = (self.cursor().index, draw::body_rows(self.size.1).max(1));
        let to = match code {
            KeyCode::Down | KeyCode::Char('j') => index.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => index.saturating_sub(1),
            KeyCode::PageDown => index.saturating_add(page),
            KeyCode::PageUp => index.saturating_sub(page),
            KeyCode::Home | KeyCode::Char('g') => return self.cursor().home(),
            KeyCode::End | KeyCode::Char('G') => usize::MAX,
            KeyCode::Enter => {
                self.cursor().go(index, &rows);
                return self.open(rows.get(index));
            }
            KeyCode::Right | KeyCode::Char('l') => {
                self.cursor().go(index, &rows);
                if let Some(row) = rows.get(index).filter(|row| matches!(row.key, Key::Line(_) | Key::Stack(_))) {
                    self.unfolded.insert(row.key.clone());
                }
                return;
            }
            KeyCode::Left | KeyCode::Char('h') => return self.fold(index, &rows),
            _ => return,
        };
        self.cursor().go(to, &rows);
    }

    /// Ctrl-F and the like, as in pagers.
    fn page(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char('f' | 'd') => self.walk(KeyCode::PageDown),
            KeyCode::Char('b' | 'u') => self.walk(KeyCode::PageUp),
            _ => {}
        }
    }

    fn open(&mut self, row: Option<&Row>) {
        let Some(row) = row else { return };
        match &row.key {
            key @ (Key::Line(_) | Key::Stack(_)) => {
                if !self.unfolded.remove(key) {
                    self.unfolded.insert(key.clone());
                }
            }
            Key::Thread(tid) => {
                self.thread = Some(*tid);
                self.tab = Tab::Sites;
            }
            Key::Frame(..) | Key::Type(_) | Key::Text(_) => {}
        }
    }

    /// Folds the row, or goes to the one that it is in.
    fn fold(&mut self, index: usize, rows: &[Row]) {
        let Some(row) = rows.get(index) else { return };
        if self.unfolded.remove(&row.key) {
            return;
        }
        let above = row.parent.as_ref().and_then(|parent| rows.iter().position(|other| other.key == *parent));
        if let Some(above) = above {
            self.cursor().go(above, rows);
        }
    }

    /// Goes to the next row that has the text, from `skip` rows further on; round and round.
    fn find(&mut self, skip: usize, forward: bool) {
        if self.search.is_empty() {
            return;
        }
        let rows = self.own_rows();
        let (count, start) = (rows.len(), self.cursor().index);
        let place = |step: usize| if forward { (start + step) % count } else { (start + count - step % count) % count };
        let found = (skip..skip + count).map(place).find(|&index| rows[index].matches(&self.search));
        match found {
            Some(index) => self.cursor().go(index, &rows),
            None => self.message = Some(format!("not found: {}", self.search)),
        }
    }
}
