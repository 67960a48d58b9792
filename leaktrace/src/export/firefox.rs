//! The Firefox Profiler's processed profile: each stack a sample that weighs its value.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use fxprof_processed_profile::{
    CategoryHandle, CpuDelta, Frame, FrameFlags, FrameInfo, Profile, SamplingInterval, Timestamp, WeightType,
};

use super::Export;
use super::stacks::{frames, label, value};

pub(super) fn write(export: &Export<'_>, out: &mut dyn Write) -> io::Result<()> {
    let started = Duration::try_from_secs_f64(export.recording.origin().started_at).unwrap_or_default();
    let started = UNIX_EPOCH.checked_add(started).unwrap_or(UNIX_EPOCH);
    let mut profile = Profile::new(export.value.title(), started.into(), SamplingInterval::from_millis(1));
    let begin = Timestamp::from_millis_since_reference(0.0);
    let end = Timestamp::from_millis_since_reference((export.report.capture.duration_seconds * 1000.0).max(0.0));
    let pid = export.report.target.pid;
    let process = profile.add_process(&export.process(), pid, begin);
    let thread = profile.add_thread(process, pid, begin, true);
    profile.set_thread_name(thread, "all threads");
    profile.set_thread_samples_weight_type(
        thread,
        if export.value.unit() == "bytes" { WeightType::Bytes } else { WeightType::Samples },
    );
    for site in &export.report.sites {
        let mut left = value(site, export.value);
        if left == 0 {
            continue;
        }
        let frames: Vec<_> = frames(site)
            .iter()
            .map(|frame| FrameInfo {
                frame: Frame::Label(profile.intern_string(&label(frame))),
                category_pair: CategoryHandle::OTHER.into(),
                flags: FrameFlags::empty(),
            })
            .collect();
        let stack = profile.intern_stack_frames(thread, frames.into_iter());
        // A sample weighs 31 bits: what weighs more is several of them.
        while left > 0 {
            let weight = i32::try_from(left).unwrap_or(i32::MAX);
            profile.add_sample(thread, end, stack, CpuDelta::ZERO, weight);
            left -= u64::from(weight.unsigned_abs());
        }
    }
    serde_json::to_writer(&mut *out, &profile)?;
    writeln!(out)
}
