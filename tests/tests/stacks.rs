//! Stacks against what the target says about itself by `sys._getframe`.

use std::collections::BTreeMap;

use leaktrace_tests::process::{Place, Service};
use leaktrace_tests::python::supported;
use leaktrace_tests::trace::Trace;
use serde::Deserialize;

/// Deepest stack that leaktrace promises.
const DEPTH: usize = 128;

/// A survivor and the stack that allocated it.
#[derive(Debug, Deserialize)]
struct Point {
    name: String,
    size: u64,
    stack: Vec<Place>,
}

#[test]
fn every_survivor_has_the_stack_that_the_target_saw() {
    for python in supported() {
        let mut service = Service::start(&python, "truth/stacks.py", &[]);
        let trace = Trace::attach(service.pid(), &[]);
        service.go();
        let points: Vec<Point> = service.expect("DONE");
        let report = trace.finish();
        report.assert_nothing_lost();
        assert!(points.len() > 250, "{} points", points.len());

        // A line that runs several times in one call allocates all its survivors from one stack.
        let mut stacks: BTreeMap<&[Place], Vec<&Point>> = BTreeMap::new();
        for point in &points {
            stacks.entry(&point.stack).or_default().push(point);
        }
        let mut wrong = Vec::new();
        for (stack, points) in stacks {
            let bytes: u64 = points.iter().map(|point| point.size).sum();
            // A free list may still hold a small block or two of the same line.
            let own = bytes..bytes + 512 * points.len() as u64;
            let sites: Vec<_> =
                report.sites.iter().filter(|site| site.domain == "obj" && own.contains(&site.live_bytes)).collect();
            let expected = &stack[..stack.len().min(DEPTH)];
            let deep = stack.len() > DEPTH;
            let right = sites.iter().any(|site| {
                let places = site.places();
                places.len() >= expected.len()
                    && places[..expected.len()] == *expected
                    && (deep || places.len() == expected.len())
                    && site.truncated == (deep && places.len() < stack.len())
            });
            if !right {
                let seen: Vec<_> = sites.iter().map(|site| (site.places(), site.truncated)).collect();
                wrong.push((&points[0].name, expected, seen));
            }
        }
        assert!(wrong.is_empty(), "{python:?}: {} stacks wrong, first {:#?}", wrong.len(), wrong[0]);
    }
}
