//! speedscope's file format, with a profile for each value (speedscope, src/lib/file-format-spec.ts).

use std::io::{self, Write};

use serde_json::{Value as Json, json};

use super::stacks::{Table, frames, value};
use super::{Export, Value};
use crate::model::Frame;

pub(super) fn write(export: &Export<'_>, out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::<Frame>::default();
    let stacks: Vec<Vec<usize>> =
        export.report.sites.iter().map(|site| frames(site).iter().map(|frame| table.index(frame)).collect()).collect();
    let profiles: Vec<Json> = Value::ALL.iter().map(|&kind| profile(export, kind, &stacks)).collect();
    let shown = Value::ALL.iter().position(|kind| *kind == export.value);
    let document = json!({
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": concat!("leaktrace ", env!("CARGO_PKG_VERSION")),
        "name": export.process(),
        "activeProfileIndex": shown,
        "shared": { "frames": table.items().iter().map(frame).collect::<Vec<_>>() },
        "profiles": profiles,
    });
    serde_json::to_writer(&mut *out, &document)?;
    writeln!(out)
}

fn frame(frame: &Frame) -> Json {
    let mut json = json!({ "name": &*frame.function });
    if !frame.file.is_empty() {
        json["file"] = Json::from(&*frame.file);
    }
    if frame.line > 0 {
        json["line"] = Json::from(frame.line);
    }
    json
}

fn profile(export: &Export<'_>, kind: Value, stacks: &[Vec<usize>]) -> Json {
    let sites = export.report.sites.iter().zip(stacks);
    let (samples, weights): (Vec<_>, Vec<_>) =
        sites.map(|(site, stack)| (stack, value(site, kind))).filter(|(_, value)| *value > 0).unzip();
    json!({
        "type": "sampled",
        "name": kind.title(),
        "unit": if kind.unit() == "bytes" { "bytes" } else { "none" },
        "startValue": 0,
        "endValue": weights.iter().sum::<u64>(),
        "samples": samples,
        "weights": weights,
    })
}
