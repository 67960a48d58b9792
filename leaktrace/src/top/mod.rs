//! `leaktrace top` without a terminal: what is shown, what keys do to it, and how it is drawn. Time is told to it.

mod app;
mod baseline;
mod draw;
mod gc;
mod header;
mod help;
mod keys;
mod rows;
mod sites;
mod sort;
#[cfg(test)]
mod tests;
mod theme;
mod threads;
mod types;

pub use app::{App, Picture, Tab};
pub use draw::draw;
pub use keys::Outcome;
pub use theme::Theme;
