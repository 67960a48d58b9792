//! A service, and another one like it that is loaded at the same time and never traced: what else the machine does hits both, so
//! that a hundredth can be told, which one service alone varies by from one minute to the next.

use anyhow::{Context, Result};

use crate::bench::subject::{Subject, Window};

/// A process that can be told to work from another thread.
pub(super) type Worker = Box<dyn Subject + Send>;

/// What is measured, alone or with its twin.
pub(super) struct Twins {
    pub(super) own: Worker,
    twin: Option<Worker>,
}

/// What they did in the same time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ran {
    pub(super) own: Window,
    twin: Option<Window>,
}

impl Twins {
    pub(super) fn new(own: Worker, twin: Option<Worker>) -> Self {
        Self { own, twin }
    }

    pub(super) fn run(&mut self, seconds: f64) -> Result<Ran> {
        let Self { own, twin } = self;
        std::thread::scope(|scope| {
            let twin = twin.as_mut().map(|twin| scope.spawn(move || twin.run(seconds)));
            let own = own.run(seconds);
            let twin = twin.map(|twin| twin.join().ok().context("the twin's thread panicked")?).transpose();
            Ok(Ran { own: own?, twin: twin.context("the twin")? })
        })
    }

    /// Lets the other one be traced next: so neither what one of them is like nor where it runs counts.
    pub(super) fn swap(&mut self) {
        if let Some(twin) = &mut self.twin {
            std::mem::swap(&mut self.own, twin);
        }
    }
}

impl Ran {
    /// A figure, over that of the twin.
    pub(super) fn figure(&self, figure: impl Fn(&Window) -> f64) -> f64 {
        figure(&self.own) / self.twin.as_ref().map_or(1.0, figure)
    }

    /// The same after [`Twins::swap`].
    pub(super) fn swapped(self) -> Self {
        match self.twin {
            Some(twin) => Self { own: twin, twin: Some(self.own) },
            None => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does as many units in a second as it is said, until it has failed.
    struct Fake(u64);

    impl Subject for Fake {
        fn pid(&self) -> u32 {
            0
        }

        fn run(&mut self, seconds: f64) -> Result<Window> {
            anyhow::ensure!(self.0 > 0, "it has ended");
            Ok(Window { units: self.0 * seconds as u64, cpu: 1.0, wall: seconds, requests: None })
        }

        fn while_working(&mut self, _: &mut dyn FnMut(u32) -> Result<()>) -> Result<()> {
            Ok(())
        }

        fn tracemalloc(&mut self, _: u32) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_service_is_compared_with_its_twin() {
        let mut twins = Twins::new(Box::new(Fake(300)), Some(Box::new(Fake(400))));
        let ran = twins.run(2.0).unwrap();
        let throughput = |ran: Ran| ran.figure(Window::throughput);
        assert!((throughput(ran) - 0.75).abs() < 1e-9 && ran.own.units == 600);
        twins.swap();
        let swapped = twins.run(2.0).unwrap();
        assert!((throughput(swapped) - 4.0 / 3.0).abs() < 1e-9 && swapped.own.units == ran.swapped().own.units);
        assert!((throughput(ran.swapped()) - throughput(swapped)).abs() < 1e-9);
    }

    #[test]
    fn one_alone_has_its_own_figures_and_the_end_of_a_twin_is_an_error() {
        let mut alone = Twins::new(Box::new(Fake(300)), None);
        alone.swap();
        assert!((alone.run(2.0).unwrap().swapped().figure(Window::throughput) - 300.0).abs() < 1e-9);
        let error = Twins::new(Box::new(Fake(300)), Some(Box::new(Fake(0)))).run(2.0).unwrap_err();
        assert!(format!("{error:#}").contains("the twin: it has ended"), "{error:#}");
    }
}
