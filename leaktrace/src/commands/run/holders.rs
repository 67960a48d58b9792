//! Who holds what a growing line allocated: the one place where the trace meets the reference graph.

use anyhow::Result;
use leaktrace::census::Subject;
use leaktrace::model::Verdict;
use leaktrace::refs::Look;
use leaktrace::report::{Holder, Report};
use leaktrace::session::Session;

/// Blocks of a line that are looked at, and lines.
const BLOCKS: usize = 400;
const LINES: usize = 50;
/// Blocks of pymalloc above which a look would keep the user waiting.
const MAX_OBJECTS: u64 = 8_000_000;

/// Reads the heap once and tells for each growing line through what its blocks are held.
pub(super) fn add(session: &Session, report: &mut Report) -> Result<()> {
    let growing: Vec<usize> =
        (0..report.lines.len()).filter(|&line| report.lines[line].verdict == Verdict::Growing).take(LINES).collect();
    if growing.is_empty() {
        return Ok(());
    }
    let (target, interpreter) = (session.target(), session.interpreter());
    let (maps, memory) = (target.maps()?, target.memory());
    let subject = Subject::of(target, interpreter, &maps, &memory);
    if let Some(pymalloc) = subject.pymalloc
        && pymalloc.snapshot(&memory)?.totals().used_blocks > MAX_OBJECTS
    {
        return Ok(());
    }
    let survivors = session.survivors(BLOCKS)?;
    let look = Look::take(&subject)?;
    for line in growing {
        let sites = report.lines[line].sites.iter().map(|&site| report.sites[site].number);
        let mut blocks: Vec<(u64, u64)> = sites.filter_map(|site| survivors.get(&site)).flatten().copied().collect();
        blocks.truncate(BLOCKS);
        let held = look.holders_of(&subject, &blocks);
        report.lines[line].holders = held.into_iter().map(|(path, share)| Holder { path, share }).collect();
    }
    Ok(())
}
