//! A target in user, pid and mount namespaces of its own: named by both pids, and traced like any other.

use std::process::Command;

use leaktrace_tests::asset;
use leaktrace_tests::process::Service;
use leaktrace_tests::python::supported;
use leaktrace_tests::trace::{Trace, require_privileges};

const BLOCKS: u64 = 1000;

#[test]
fn a_target_in_namespaces_is_named_by_both_pids() {
    require_privileges();
    for python in supported() {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount", "--mount-proc"]);
        let mut target = Service::spawn(command.arg(&python.executable).arg(asset("applications/app.py")));
        let parent = target.child();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        let pid: u32 = children.trim().parse().expect("unshare has one child");
        let trace = Trace::attach(pid, &[]);
        target.go();
        let _: serde_json::Value = target.expect("DONE");
        let report = trace.finish();
        assert!(target.quit().success());
        report.assert_nothing_lost();
        assert_eq!((report.target.pid, report.target.pid_inside), (pid, 1));
        let here =
            report.sites.iter().filter(|site| site.places().first().is_some_and(|place| place.function == "work"));
        assert_eq!(here.filter(|site| site.domain == "obj").map(|site| site.live_blocks).sum::<u64>(), BLOCKS);
    }
}
