//! What repeated measurements say: median and range.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` for no values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, min, max })
    }

    /// In another unit, or counted from the other end.
    pub(crate) fn map(self, of: impl Fn(f64) -> f64) -> Self {
        let (one, other) = (of(self.min), of(self.max));
        Self { median: of(self.median), min: one.min(other), max: one.max(other) }
    }
}

/// "7.6 (7.1 .. 8.4)"; `{:.0}` sets the digits.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        write!(f, "{:.digits$} ({:.digits$} .. {:.digits$})", self.median, self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn medians() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, f64::NAN, 3.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn mapped() {
        let spread = Spread { median: 0.5, min: 0.25, max: 1.0 };
        assert_eq!(spread.map(|share| 1.0 - share), Spread { median: 0.5, min: 0.0, max: 0.75 });
    }

    #[test]
    fn shown() {
        let spread = Spread { median: 7.56, min: 7.0, max: 8.44 };
        assert_eq!(format!("{spread}"), "7.6 (7.0 .. 8.4)");
        assert_eq!(format!("{spread:.0}"), "8 (7 .. 8)");
    }
}
