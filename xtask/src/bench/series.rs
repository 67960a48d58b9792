//! Contenders that take turns on one process, so that other load on the machine hits all alike.

use anyhow::Result;

use super::contender::Contender;

/// The rounds of one contender.
pub(crate) struct Series<R> {
    pub(crate) contender: Contender,
    pub(crate) rounds: Vec<R>,
    /// What went wrong in the rounds that are not here.
    pub(crate) failures: Vec<String>,
}

impl<R> Series<R> {
    /// A contender that fails again and again costs time and learns nothing.
    fn is_hopeless(&self) -> bool {
        self.failures.len() > 1
    }
}

/// Measures each contender in turn, as many times over as is asked for it, on what `start` gives. `round` is given the untraced
/// window before it, and gives the one after it.
pub(crate) fn take_turns<S, W: Copy, R>(
    contenders: &[(Contender, u32)],
    mut start: impl FnMut() -> Result<(S, W)>,
    mut round: impl FnMut(Contender, &mut S, W) -> Result<(R, W)>,
) -> Result<Vec<Series<R>>> {
    let mut all: Vec<(Series<R>, u32)> = contenders
        .iter()
        .map(|&(contender, rounds)| (Series { contender, rounds: Vec::new(), failures: Vec::new() }, rounds))
        .collect();
    let most = contenders.iter().map(|(_, rounds)| *rounds).max().unwrap_or(0);
    // What a failed contender left behind, in whatever state, is not for the others.
    let mut running: Option<(S, W)> = None;
    for turn in 0..most {
        for (one, _) in all.iter_mut().filter(|(one, rounds)| turn < *rounds && !one.is_hopeless()) {
            let (mut subject, before) = match running.take() {
                Some(running) => running,
                None => start()?,
            };
            match round(one.contender, &mut subject, before) {
                Ok((round, after)) => {
                    one.rounds.push(round);
                    running = Some((subject, after));
                }
                Err(error) => {
                    eprintln!("    {}: {error:#}", one.contender);
                    one.failures.push(format!("{error:#}"));
                }
            }
        }
    }
    Ok(all.into_iter().map(|(series, _)| series).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns() {
        let (mut starts, mut turns) = (0, Vec::new());
        let contenders = [(Contender::Exact, 3), (Contender::Memleak, 4), (Contender::Tracemalloc(1), 1)];
        let all = take_turns(
            &contenders,
            || {
                starts += 1;
                Ok((starts, 0))
            },
            |contender, subject, before| {
                turns.push((contender, *subject));
                anyhow::ensure!(contender != Contender::Memleak, "no");
                Ok((before, before + 1))
            },
        )
        .unwrap();
        let (exact, memleak, tracemalloc) = (Contender::Exact, Contender::Memleak, Contender::Tracemalloc(1));
        let expected = [(exact, 1), (memleak, 1), (tracemalloc, 2), (exact, 2), (memleak, 2), (exact, 3)];
        assert_eq!(turns, expected);
        assert_eq!(all[0].rounds, [0, 1, 0]);
        assert_eq!((all[1].rounds.len(), all[1].failures.len()), (0, 2));
    }
}
