//! The one value that every view shows, and its views.

pub mod build;
pub mod collector;
pub mod diff;
pub mod heap;
pub mod json;
pub mod line;
pub mod live;
pub mod refs;
mod select;
pub mod source;
pub mod style;
pub mod text;
pub mod units;
mod value;
pub(crate) mod words;

pub use build::Facts;
pub use select::Selection;
pub use source::SourceReader;
pub use style::Style;
pub use value::{
    Capture, Collector, Cost, Coverage, Events, Exhaustion, Generation, Headline, Held, Holder, Line, Lost, Memory,
    Outlook, Pause, Python, Report, Room, RssBytes, Series, SiteReport, Target, Totals,
};
