//! How fast something grows, and how sure that is.
//!
//! Two estimators, each for the data it is honest about:
//!
//! * [`Rate::of_increments`]: what each cohort *added*. Increments of an arrival process are nearly independent, so the
//!   mean and the spread between cohorts give rate and interval directly. This is the rate of a leak.
//! * [`Rate::of_series`]: a level sampled over time (live bytes, RSS). The slope is Theil and Sen's median of pairwise
//!   slopes, which a burst or a drop does not drag along; the interval is least squares', widened for the
//!   autocorrelation of the residuals, since a wandering level has fewer independent points than samples.
//!
//! Intervals are 95 %, by Student's t, so that 6 points admit how little they know.

use serde::{Deserialize, Serialize};

/// A rate per second with its 95 % confidence interval. Always finite.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Rate {
    pub estimate: f64,
    pub low: f64,
    pub high: f64,
}

/// What was added in a span of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Increment {
    pub seconds: f64,
    pub amount: f64,
}

/// A level at a time, both finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub seconds: f64,
    pub value: f64,
}

impl Rate {
    /// The rate of a process from what it added in disjoint spans. The spans may differ in length: the variance of an
    /// increment is taken as proportional to its span.
    pub fn of_increments(increments: &[Increment]) -> Self {
        let time: f64 = increments.iter().map(|i| i.seconds).sum();
        if time <= 0.0 {
            return Self::default();
        }
        let rate = increments.iter().map(|i| i.amount).sum::<f64>() / time;
        let spans: Vec<_> = increments.iter().filter(|i| i.seconds > 0.0).collect();
        let errors: Vec<f64> = spans.iter().map(|i| (i.amount - rate * i.seconds) / i.seconds.sqrt()).collect();
        if errors.len() < 2 {
            return Self::around(rate, rate.abs() * student(1));
        }
        let freedom = errors.len() - 1;
        let variance = errors.iter().map(|e| e * e).sum::<f64>() / freedom as f64;
        let error = (variance / time).sqrt() * inflation(&errors);
        Self::around(rate, student(freedom) * error)
    }

    /// The same of counts in short spans, which cannot be surer than chance allows: two spans that happen to agree say no more
    /// than their number of arrivals does (Poisson: the variance is the mean).
    pub fn of_counts(increments: &[Increment]) -> Self {
        let rate = Self::of_increments(increments);
        let time: f64 = increments.iter().map(|i| i.seconds).sum();
        let half =
            (rate.high - rate.estimate).max(1.96 * (rate.estimate / time.max(f64::MIN_POSITIVE)).max(0.0).sqrt());
        Self::around(rate.estimate, half)
    }

    /// The slope of a level.
    pub fn of_series(points: &[Point]) -> Self {
        let Some(slope) = theil_sen(points) else { return Self::default() };
        if points.len() < 3 {
            return Self::around(slope, slope.abs() * student(1));
        }
        let count = points.len() as f64;
        let mean_time = points.iter().map(|p| p.seconds).sum::<f64>() / count;
        let spread: f64 = points.iter().map(|p| (p.seconds - mean_time).powi(2)).sum();
        // The median residual as the intercept: it goes with the median slope.
        let mut offsets: Vec<f64> = points.iter().map(|p| p.value - slope * p.seconds).collect();
        let intercept = median(&mut offsets).unwrap_or_default();
        let residuals: Vec<f64> = points.iter().map(|p| p.value - slope * p.seconds - intercept).collect();
        let freedom = points.len() - 2;
        let variance = residuals.iter().map(|r| r * r).sum::<f64>() / freedom as f64;
        let error = (variance / spread).sqrt() * inflation(&residuals);
        Self::around(slope, student(freedom) * error)
    }

    /// Whether the interval excludes no growth.
    pub fn is_positive(&self) -> bool {
        self.low > 0.0
    }

    /// The part of a rate that falls to a share of what grows.
    #[must_use]
    pub fn scaled(&self, share: f64) -> Self {
        Self { estimate: self.estimate * share, low: self.low * share, high: self.high * share }
    }

    /// Adds a rate as if both were wrong in the same direction: sites share the load that drives them.
    pub fn add(&mut self, other: &Self) {
        self.estimate += other.estimate;
        self.low += other.low;
        self.high += other.high;
    }

    fn around(estimate: f64, half: f64) -> Self {
        let finite = |value: f64| if value.is_finite() { value } else { 0.0 };
        Self { estimate: finite(estimate), low: finite(estimate - half), high: finite(estimate + half) }
    }
}

/// Median of the slopes between all pairs of points; `None` when all lie at one time.
fn theil_sen(points: &[Point]) -> Option<f64> {
    let mut slopes = Vec::with_capacity(points.len() * points.len().saturating_sub(1) / 2);
    for (index, a) in points.iter().enumerate() {
        for b in &points[index + 1..] {
            let seconds = b.seconds - a.seconds;
            if seconds > 0.0 {
                slopes.push((b.value - a.value) / seconds);
            }
        }
    }
    median(&mut slopes)
}

/// Median; `None` of nothing. Reorders the values.
pub(super) fn median(values: &mut [f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let middle = values.len() / 2;
    let odd = values.len() % 2 == 1;
    let (below, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if odd {
        return Some(*upper);
    }
    let lower = below.iter().copied().max_by(f64::total_cmp)?;
    Some(f64::midpoint(lower, *upper))
}

/// Factor by which positive autocorrelation of errors widens the standard error of their mean: sqrt((1+r)/(1-r)) of an
/// AR(1) process. Negative autocorrelation is not used to narrow it. Few errors understate r by about (1+3r)/n
/// (Kendall 1954), which is added back.
fn inflation(errors: &[f64]) -> f64 {
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    let variance: f64 = errors.iter().map(|e| (e - mean).powi(2)).sum();
    if variance <= 0.0 {
        return 1.0;
    }
    let lagged: f64 = errors.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum();
    let raw = lagged / variance;
    if raw <= 0.0 {
        return 1.0;
    }
    let correlation = (raw + (1.0 + 3.0 * raw) / errors.len() as f64).min(0.9);
    ((1.0 + correlation) / (1.0 - correlation)).sqrt()
}

/// 97.5 % quantile of Student's t.
fn student(freedom: usize) -> f64 {
    const TABLE: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    match freedom {
        0 => TABLE[0],
        1..=10 => TABLE[freedom - 1],
        // Cornish-Fisher's first terms; within 0.3 % from 10 degrees on.
        _ => 1.96 + 2.372 / freedom as f64 + 2.823 / (freedom as f64).powi(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Repeatable noise in [-1, 1].
    fn noise(seed: u64) -> impl Iterator<Item = f64> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        std::iter::from_fn(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            Some((state >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
        })
    }

    fn series(count: usize, level: impl Fn(f64) -> f64, jitter: f64, seed: u64) -> Vec<Point> {
        let times = (0..count).map(|index| index as f64 * 5.0);
        times.zip(noise(seed)).map(|(t, e)| Point { seconds: t, value: level(t) + jitter * e }).collect()
    }

    #[test]
    fn the_interval_of_a_noisy_line_covers_its_slope_nearly_always() {
        for count in [6, 12, 60] {
            let covered = (0..200)
                .filter(|&seed| {
                    let rate = Rate::of_series(&series(count, |t| 1000.0 + 50.0 * t, 400.0, seed));
                    rate.low <= 50.0 && 50.0 <= rate.high
                })
                .count();
            assert!(covered >= 180, "{covered} of 200 at {count} points");
        }
    }

    #[test]
    fn levels_that_do_not_grow_are_not_said_to() {
        let sawtooth = |t: f64| 100.0 * (t % 20.0);
        let plateau = |_: f64| 5000.0;
        let step = |t: f64| if t < 10.0 { 0.0 } else { 5000.0 };
        let saturated = |t: f64| 5000.0 * (1.0 - (-t / 5.0).exp());
        for (name, level) in [("sawtooth", &sawtooth as &dyn Fn(f64) -> f64), ("plateau", &plateau), ("step", &step)] {
            let wrong = (0..100).filter(|&seed| Rate::of_series(&series(13, level, 50.0, seed)).is_positive()).count();
            assert!(wrong <= 5, "{name}: {wrong}");
        }
        let late = series(40, saturated, 50.0, 1);
        assert!(!Rate::of_series(&late[12..]).is_positive());
    }

    #[test]
    fn one_outlier_does_not_drag_the_slope() {
        let mut points = series(12, |t| 10.0 * t, 0.0, 1);
        points[11].value += 10_000.0;
        assert!((Rate::of_series(&points).estimate - 10.0).abs() < 0.5);
    }

    #[test]
    fn increments_give_the_mean_and_admit_their_spread() {
        let steady: Vec<_> = (0..10).map(|_| Increment { seconds: 5.0, amount: 250.0 }).collect();
        assert_eq!(Rate::of_increments(&steady), Rate { estimate: 50.0, low: 50.0, high: 50.0 });
        let burst: Vec<_> =
            (0..10).map(|i| Increment { seconds: 5.0, amount: if i == 0 { 2500.0 } else { 0.0 } }).collect();
        assert!(!Rate::of_increments(&burst).is_positive());
        let unequal =
            [(5.0, 250.0), (10.0, 500.0), (40.0, 2000.0)].map(|(seconds, amount)| Increment { seconds, amount });
        assert!((Rate::of_increments(&unequal).estimate - 50.0).abs() < 1e-9);
    }

    #[test]
    fn too_little_data_is_finite_and_unsure() {
        assert_eq!(Rate::of_increments(&[]), Rate::default());
        assert_eq!(Rate::of_series(&[]), Rate::default());
        let two = Rate::of_series(&[Point { seconds: 0.0, value: 0.0 }, Point { seconds: 5.0, value: 10.0 }]);
        assert!(two.low < 0.0 && two.high.is_finite());
        let same = Point { seconds: 1.0, value: 2.0 };
        assert_eq!(Rate::of_series(&[same, same]), Rate::default());
    }
}
