//! pprof's profile.proto (github.com/google/pprof, proto/profile.proto), compressed.

use std::io::{self, Write};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message as _;

use super::stacks::{Table, frames, value};
use super::{Export, Value};
use crate::model::Frame;

/// The messages of profile.proto, as far as they are written.
mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Profile {
        #[prost(message, repeated, tag = "1")]
        pub(super) sample_type: Vec<ValueType>,
        #[prost(message, repeated, tag = "2")]
        pub(super) sample: Vec<Sample>,
        #[prost(message, repeated, tag = "4")]
        pub(super) location: Vec<Location>,
        #[prost(message, repeated, tag = "5")]
        pub(super) function: Vec<Function>,
        #[prost(string, repeated, tag = "6")]
        pub(super) string_table: Vec<String>,
        #[prost(int64, tag = "9")]
        pub(super) time_nanos: i64,
        #[prost(int64, tag = "10")]
        pub(super) duration_nanos: i64,
        #[prost(message, optional, tag = "11")]
        pub(super) period_type: Option<ValueType>,
        #[prost(int64, tag = "12")]
        pub(super) period: i64,
        #[prost(int64, repeated, tag = "13")]
        pub(super) comment: Vec<i64>,
        #[prost(int64, tag = "14")]
        pub(super) default_sample_type: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct ValueType {
        #[prost(int64, tag = "1")]
        pub(super) r#type: i64,
        #[prost(int64, tag = "2")]
        pub(super) unit: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Sample {
        /// The innermost first.
        #[prost(uint64, repeated, tag = "1")]
        pub(super) location_id: Vec<u64>,
        #[prost(int64, repeated, tag = "2")]
        pub(super) value: Vec<i64>,
        #[prost(message, repeated, tag = "3")]
        pub(super) label: Vec<Label>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Label {
        #[prost(int64, tag = "1")]
        pub(super) key: i64,
        #[prost(int64, tag = "2")]
        pub(super) str: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Location {
        #[prost(uint64, tag = "1")]
        pub(super) id: u64,
        #[prost(message, repeated, tag = "4")]
        pub(super) line: Vec<Line>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Line {
        #[prost(uint64, tag = "1")]
        pub(super) function_id: u64,
        #[prost(int64, tag = "2")]
        pub(super) line: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Function {
        #[prost(uint64, tag = "1")]
        pub(super) id: u64,
        #[prost(int64, tag = "2")]
        pub(super) name: i64,
        #[prost(int64, tag = "3")]
        pub(super) system_name: i64,
        #[prost(int64, tag = "4")]
        pub(super) filename: i64,
    }
}

pub(super) fn write(export: &Export<'_>, out: &mut dyn Write) -> io::Result<()> {
    let mut gzip = GzEncoder::new(out, Compression::default());
    gzip.write_all(&profile(export).encode_to_vec())?;
    gzip.finish().map(drop)
}

fn profile(export: &Export<'_>) -> proto::Profile {
    let mut texts = Table::<Arc<str>>::default();
    // The first is always empty.
    texts.text("");
    let mut frame_table = Table::<Frame>::default();
    // A function by its name and file.
    let mut functions = Table::<(Arc<str>, Arc<str>)>::default();
    let mut samples = Vec::with_capacity(export.report.sites.len());
    for site in &export.report.sites {
        let mut label = |key, value| proto::Label { key: texts.text(key) as i64, str: texts.text(value) as i64 };
        samples.push(proto::Sample {
            location_id: frames(site).iter().rev().map(|frame| frame_table.index(frame) as u64 + 1).collect(),
            value: Value::ALL.iter().map(|&kind| i64::try_from(value(site, kind)).unwrap_or(i64::MAX)).collect(),
            label: vec![label("domain", site.domain), label("verdict", site.verdict.name())],
        });
    }
    let location = (frame_table.items().iter().zip(1..))
        .map(|(frame, id)| {
            let function = functions.index(&(Arc::clone(&frame.function), Arc::clone(&frame.file)));
            let line = proto::Line { function_id: function as u64 + 1, line: frame.line.into() };
            proto::Location { id, line: vec![line] }
        })
        .collect();
    let function = (functions.items().iter().zip(1..))
        .map(|((name, file), id)| {
            let name = texts.index(name) as i64;
            proto::Function { id, name, system_name: name, filename: texts.index(file) as i64 }
        })
        .collect();
    let mut value_type =
        |kind: Value| proto::ValueType { r#type: texts.text(kind.name()) as i64, unit: texts.text(kind.unit()) as i64 };
    let sample_type = Value::ALL.iter().map(|&kind| value_type(kind)).collect();
    let period_type = Some(value_type(Value::LiveBytes));
    let default_sample_type = texts.text(export.value.name()) as i64;
    let mut comment = vec![texts.text(&export.process()) as i64, texts.text("growth is in bytes an hour") as i64];
    comment.extend(export.report.capture.notes.iter().map(|note| texts.text(note) as i64));
    let duration = export.report.capture.duration_seconds;
    proto::Profile {
        sample_type,
        sample: samples,
        location,
        function,
        time_nanos: ((export.recording.origin().started_at + duration) * 1e9) as i64,
        duration_nanos: (duration * 1e9) as i64,
        period_type,
        period: 1,
        comment,
        default_sample_type,
        string_table: texts.items().iter().map(ToString::to_string).collect(),
    }
}
