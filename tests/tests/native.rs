//! Memory that native code asks the C allocator for: each of its functions, and the Python line that called it, also from
//! threads that do not hold the GIL.

use std::process::Command;

use leaktrace_tests::process::Service;
use leaktrace_tests::python::supported;
use leaktrace_tests::report::{Report, Sum};
use leaktrace_tests::trace::{Trace, require_privileges};

/// ctypes gives up the GIL while it calls.
const CODE: &str = r#"
import ctypes, os, sys, threading
libc = ctypes.CDLL(None)
size = ctypes.c_size_t
def declare(name, *arguments):
    function = getattr(libc, name)
    function.restype, function.argtypes = ctypes.c_void_p, arguments
    return function
malloc, calloc, realloc = declare("malloc", size), declare("calloc", size, size), declare("realloc", ctypes.c_void_p, size)
valloc, pvalloc, memalign = declare("valloc", size), declare("pvalloc", size), declare("memalign", size, size)
aligned_alloc = declare("aligned_alloc", size, size)
posix_memalign = declare("posix_memalign", ctypes.c_void_p, size, size)
where = ctypes.pointer(ctypes.c_void_p())
numbers = list(range(100))
def call_malloc():
    for n in numbers: malloc(5000)
def call_calloc():
    for n in numbers: calloc(50, 100)
def call_realloc():
    for n in numbers: realloc(realloc(None, 100), 5000)
def call_valloc():
    for n in numbers: valloc(5000)
def call_pvalloc():
    for n in numbers: pvalloc(5000)
def call_memalign():
    for n in numbers: memalign(64, 5000)
def call_aligned_alloc():
    for n in numbers: aligned_alloc(64, 5000)
def call_posix_memalign():
    for n in numbers: posix_memalign(where, 64, 5000)
def call_all():
    call_malloc(); call_calloc(); call_realloc(); call_valloc(); call_pvalloc()
    call_memalign(); call_aligned_alloc(); call_posix_memalign()
end = threading.Event()
threading.stack_size(1 << 16)
for n in range(int(sys.argv[1])):
    threading.Thread(target=end.wait, daemon=True).start()
call_all()
print('READY {"pid": %d}' % os.getpid(), flush=True)
sys.stdin.readline()
call_all()
print("DONE null", flush=True)
sys.stdin.readline()
"#;

fn traced(threads: &str) -> Vec<Report> {
    require_privileges();
    let run = |python: leaktrace_tests::python::Python| {
        let mut target = Service::spawn(Command::new(&python.executable).args(["-c", CODE, threads]));
        let trace = Trace::attach(target.pid(), &["--interval", "1h"]);
        target.go();
        target.expect::<()>("DONE");
        let report = trace.finish();
        target.go();
        report.assert_nothing_lost();
        report
    };
    supported().into_iter().map(run).collect()
}

/// Native memory by the function at the top of the stack.
fn live(report: &Report, function: &str) -> Sum {
    let native = report.sites_in(function).filter(|site| site.domain == "native");
    native.fold(Sum::default(), |sum, site| Sum {
        bytes: sum.bytes + site.live_bytes,
        blocks: sum.blocks + site.live_blocks,
    })
}

const CALLERS: [&str; 8] = [
    "call_malloc",
    "call_calloc",
    "call_realloc",
    "call_valloc",
    "call_pvalloc",
    "call_memalign",
    "call_aligned_alloc",
    "call_posix_memalign",
];

#[test]
fn every_function_of_the_c_allocator_is_seen() {
    for report in traced("0") {
        for caller in CALLERS {
            assert_eq!(live(&report, caller), Sum { bytes: 500_000, blocks: 100 }, "{caller}");
        }
    }
}

/// The caller's thread state is the last in the interpreter's list, behind more than are searched.
#[test]
fn a_thread_without_the_gil_keeps_its_stack_among_many() {
    for report in traced("600") {
        for caller in CALLERS {
            assert_eq!(live(&report, caller), Sum { bytes: 500_000, blocks: 100 }, "{caller}");
        }
    }
}
