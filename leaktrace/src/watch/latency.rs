//! What windows do to the slow requests of a service.
//!
//! A service's p99 latency is not to rise by more than [`ALLOWED`], whatever windows do to single requests. Which share of the
//! requests may meet a window then depends on how much it slows them: a request that takes 10 % longer passes for a slow one only
//! if it would nearly have been one anyway. That is reckoned for a service whose requests differ among themselves as little as
//! [`VARIATION`] says, by the normal distribution; where they differ more, as they do in most, windows do less.

use std::f64::consts::SQRT_2;

/// How much longer the 99th of a hundred requests may take.
const ALLOWED: f64 = 0.05;
/// Standard deviation of a request's time, as a part of the mean: the p99 is 1.23 times the median. Of the services that the
/// benchmark loads it is 2.1 times and more.
const VARIATION: f64 = 0.1;
/// Standard deviations from the mean of a normal distribution to its p99.
const P99: f64 = 2.326;

/// Slowdown up to which any share of the requests may meet a window.
pub const NOTICED: f64 = ALLOWED;
/// Slowdown of windows that few requests notice: where `--overhead` is 1 %, that and their notice last for as much of the time.
pub const MODEST: f64 = 0.15;

/// Which share of the requests that meet a window become slow ones by it, 0 to 1; `slowdown` is how much longer they take, as a
/// part of the time without it. 0 up to [`NOTICED`].
pub fn noticing(slowdown: f64) -> f64 {
    if slowdown <= NOTICED || slowdown.is_nan() {
        return 0.0;
    }
    let limit = (1.0 + ALLOWED) * (1.0 + P99 * VARIATION);
    let slower = |slowdown: f64| libm::erfc((limit / (1.0 + slowdown) - 1.0) / VARIATION / SQRT_2) / 2.0;
    let anyway = slower(0.0);
    (slower(slowdown) - anyway) / (1.0 - anyway)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a table of the normal distribution: 1.05 times the p99 is 1.2942 times the mean.
    #[test]
    fn few_notice_what_is_a_little_slower() {
        for (slowdown, share) in [(0.0, 0.0), (0.05, 0.0), (0.1, 0.037), (0.15, 0.103), (0.2, 0.215), (0.5, 0.914)] {
            assert!((noticing(slowdown) - share).abs() < 2e-3, "{slowdown}: {}", noticing(slowdown));
        }
        assert!(noticing(1.0) > 0.999 && noticing(f64::INFINITY) <= 1.0 && noticing(f64::NAN) == 0.0);
    }
}
