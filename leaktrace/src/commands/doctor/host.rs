//! What the machine allows, found by doing it wherever that is harmless.

use std::io;

use leaktrace::host::bpf::{self, Support};
use leaktrace::host::kernel::{self, KernelVersion};
use leaktrace::host::tracefs::{Origin, Tracefs, TracefsError};
use leaktrace::host::{perf, privileges};
use leaktrace::tracer::load::{self, Sizes};
use leaktrace::tracer::object;
use leaktrace_common::wire::Config;

use super::check::Check;
use crate::exit::ExitCode::{NoPrivilege, UnsupportedKernel};

const AS_ROOT: &str = "run as root";

pub(super) fn checks() -> Vec<Check> {
    // The first that needs a single thread; see Tracefs::find_or_mount.
    let tracefs = tracefs();
    let mut checks = vec![kernel_version(), privileges()];
    checks.extend([lockdown(), btf(), tracefs]);
    checks.push(support("uprobe programs", bpf::uprobe_programs(), "CONFIG_BPF_EVENTS and CONFIG_UPROBE_EVENTS"));
    checks.push(support("tracepoint programs", bpf::raw_tracepoint_programs(), "CONFIG_BPF_EVENTS"));
    checks.push(support("ring buffers", bpf::ring_buffers(), "5.8 or newer, with CONFIG_BPF_SYSCALL"));
    checks.extend([perf_events(), memlock(), programs()]);
    checks
}

fn kernel_version() -> Check {
    let subject = "kernel";
    match KernelVersion::running() {
        Some(version) if version >= KernelVersion::OLDEST => Check::ok(subject, version.to_string()),
        Some(version) => Check::no(
            subject,
            format!("{version} has no BPF ring buffer"),
            UnsupportedKernel,
            format!("{} or newer is needed", KernelVersion::OLDEST),
        ),
        None => Check::warn(subject, "its release name has no version", "the other lines say what it can do"),
    }
}

fn privileges() -> Check {
    let subject = "privileges";
    let own = match privileges::Privileges::own() {
        Ok(own) => own,
        Err(error) => return Check::no(subject, format!("cannot read /proc: {error}"), NoPrivilege, "mount /proc"),
    };
    let missing: Vec<&str> = own.missing().iter().map(|capability| capability.name).collect();
    if !missing.is_empty() {
        return Check::no(subject, format!("without {}", missing.join(", ")), NoPrivilege, AS_ROOT);
    }
    if !own.initial_user_namespace {
        let finding = "root of a user namespace, not of the machine";
        return Check::no(subject, finding, NoPrivilege, "run outside of the container, or in a privileged one");
    }
    Check::ok(subject, if own.root { "root" } else { "the capabilities that are needed" })
}

fn lockdown() -> Check {
    let subject = "lockdown";
    match kernel::lockdown().as_deref() {
        Some(mode @ "confidentiality") => Check::no(
            subject,
            format!("{mode}: BPF may not read memory"),
            UnsupportedKernel,
            "boot with lockdown=integrity or less",
        ),
        Some(mode) => Check::ok(subject, mode),
        None => Check::ok(subject, "none"),
    }
}

fn btf() -> Check {
    let subject = "BTF";
    if kernel::has_btf() {
        Check::ok(subject, "/sys/kernel/btf/vmlinux")
    } else {
        let finding = "no types of the kernel in /sys/kernel/btf/vmlinux";
        Check::no(subject, finding, UnsupportedKernel, "needs a kernel with CONFIG_DEBUG_INFO_BTF, and /sys mounted")
    }
}

fn tracefs() -> Check {
    let subject = "uprobe events";
    match Tracefs::find_or_mount() {
        Ok(Tracefs { root, origin: Origin::Mounted }) => Check::ok(subject, format!("{}", root.display())),
        Ok(Tracefs { origin: Origin::Private, .. }) => {
            Check::ok(subject, "tracefs is not mounted, but leaktrace can mount one for itself")
        }
        Err(error @ TracefsError::PermissionDenied(_)) => Check::no(subject, error.to_string(), NoPrivilege, ""),
        Err(TracefsError::Mount(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            let finding = "no tracefs is mounted, and this process may not mount one";
            Check::no(subject, finding, NoPrivilege, "run as root, or have one mounted at /sys/kernel/tracing")
        }
        Err(error) => {
            Check::no(subject, error.to_string(), UnsupportedKernel, "needs a kernel with CONFIG_UPROBE_EVENTS")
        }
    }
}

fn support(subject: &'static str, support: Support, needs: &str) -> Check {
    match support {
        Support::Yes => Check::ok(subject, "loaded one"),
        Support::No => Check::no(
            subject,
            "the kernel does not know them",
            UnsupportedKernel,
            format!("needs a kernel with {needs}"),
        ),
        Support::Refused(io::ErrorKind::PermissionDenied, error) => Check::no(subject, error, NoPrivilege, AS_ROOT),
        Support::Refused(_, error) => {
            Check::no(subject, format!("the kernel refused one: {error}"), UnsupportedKernel, format!("needs {needs}"))
        }
    }
}

fn perf_events() -> Check {
    let subject = "perf events";
    // The first process is everybody else's stand-in.
    match perf::try_open(1) {
        Ok(()) => Check::ok(subject, "opened one"),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => {
            let paranoid = perf::paranoid().map_or_else(String::new, |n| format!(", kernel.perf_event_paranoid = {n}"));
            Check::no(subject, format!("not permitted on other processes{paranoid}"), NoPrivilege, AS_ROOT)
        }
        Err(error) => {
            Check::no(subject, error.to_string(), UnsupportedKernel, "needs a kernel with CONFIG_PERF_EVENTS")
        }
    }
}

/// Kernels before 5.11 charge maps to this limit (`RLIMIT_MEMLOCK`); newer ones to the memory cgroup.
fn memlock() -> Check {
    let subject = "locked memory";
    let charged = KernelVersion::running().is_none_or(|version| version < KernelVersion::new(5, 11, 0));
    match (privileges::raise_memlock(), charged) {
        (true, _) => Check::ok(subject, "unlimited"),
        (false, false) => Check::ok(subject, "limited, but this kernel does not charge BPF maps to it"),
        (false, true) => Check::warn(subject, "limited, and BPF maps are charged to it", "ulimit -l unlimited"),
    }
}

/// Loads the programs themselves, for no target: the verifier's own word on this kernel.
fn programs() -> Check {
    let subject = "BPF programs";
    // The smallest that the kernel takes: a page for the ring.
    let sizes = Sizes { blocks: 1, ring_bytes: 4096 };
    match load::load(object::OBJECT, &Config::default(), &[], sizes, false) {
        Ok(_) => Check::ok(subject, format!("all of this build are accepted ({} KiB)", object::OBJECT.len() / 1024)),
        Err(error) => super::target::failed(subject, error),
    }
}
