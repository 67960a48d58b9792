use leaktrace::plan::*; use leaktrace::tracer::*; use leaktrace_common::site::*; use leaktrace_common::wire::*;
use leaktrace_common::walk::PythonLayout;
fn main() {
    let pid: u32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let secs: u64 = std::env::args().nth(2).unwrap().parse().unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let base = |n: &str| { let l = maps.lines().find(|l| l.contains(n)).unwrap(); (u64::from_str_radix(l.split('-').next().unwrap(),16).unwrap(), l.split_whitespace().last().unwrap().to_string()) };
    let (pb, pf) = base("libpython3.11"); let (cb, cf) = base("libc.so.6");
    let r = Operand::register;
    let mut plan = ProbePlan { files: vec![PlanFile{open_path: pf.clone().into(), display: pf}, PlanFile{open_path: cf.clone().into(), display: cf}], ..Default::default() };
    let mut p = |file: usize, off: u64, op: u8, domain: u8, a: Operand, b: Operand| plan.probes.push(Probe{file, file_offset: off, address: off + if file==0 {pb} else {cb}, op, domain, a, b, execution: Execution::Emulated, why: String::new(), instruction: String::new(), bytes: vec![]});
    let none = Operand::default();
    let z = Operand::immediate(0); let _ = none;
    p(0, 0x1af824, op::PY_MALLOC, domain::SHARED, r(reg::RSI), z);
    p(0, 0x1afaa0, op::PY_CALLOC, domain::SHARED, r(reg::RSI), r(reg::RDX));
    p(0, 0x1af8d0, op::PY_REALLOC_INLINED, domain::SHARED, r(reg::RSI), r(reg::RDX));
    for o in [0x1af888, 0x1afa55, 0x1afb25] { p(0, o, op::REFILLED, domain::SHARED, r(reg::RAX), z); }
    p(0, 0x2bb0b0, op::GC_START, 0, r(reg::RSI), z);
    p(1, 0x98930, op::C_MALLOC, domain::NATIVE, r(reg::RDI), z);
    p(1, 0x996e0, op::C_CALLOC, domain::NATIVE, r(reg::RDI), r(reg::RSI));
    p(1, 0x99130, op::C_REALLOC, domain::NATIVE, r(reg::RDI), r(reg::RSI));
    p(1, 0x98ef3, op::C_FREE, domain::NATIVE, r(reg::RDI), z);
    for (o, op) in [(0x98930u64, op::C_MALLOC), (0x996e0, op::C_CALLOC), (0x99130, op::C_REALLOC)] { plan.returns.push(ReturnProbe{file:1, file_offset:o, address:0, op, why:String::new(), bytes: vec![]}); }
    plan.returns.push(ReturnProbe{file:0, file_offset:0x2bb0b0, address:0, op: op::GC_START, why:String::new(), bytes: vec![]});
    let rt = pb + 0x54e540;
    let a: Vec<u64> = std::env::args().skip(3).map(|x| x.parse().unwrap()).collect();
    let mut l = PythonLayout::ZERO;
    l.tstate_current = rt + a[0]; l.interpreters_head = rt + a[1]; l.interp_threads_head = a[2] as u32; l.tstate_next = a[3] as u32; l.tstate_thread_id = a[4] as u32; l.tstate_frame = a[5] as u32; l.cframe_frame = a[6] as u32;
    l.frame_window = 32; l.frame_window_len = 32; l.frame_code = 0; l.frame_previous = 16; l.frame_instr = 24;
    l.code_filename = a[7] as u32; l.code_qualname=a[8] as u32; l.code_linetable=a[9] as u32; l.code_firstlineno=a[10] as u32; l.code_firsttraceable=a[11] as u32; l.code_instructions=a[12] as u32;
    l.bytes_size=16; l.bytes_data=32; l.unicode_length=16; l.unicode_state=32; l.unicode_ascii_data=48; l.unicode_compact_data=72;
    let pm = leaktrace::cpython::PymallocState { usedpools: pb + 0x45c040, pool_size: 16384, arena_size: 1<<20, class_shift: 4, small_max: 512, ..Default::default() };
    let spec = Spec { pid, plan: &plan, layout: &l, pymalloc: Some(&pm), tracefs: std::path::Path::new("/sys/kernel/tracing"), sizes: load::Sizes{blocks: 1<<22, ring_bytes: 1<<24}, verbose: true };
    let t0 = std::time::Instant::now();
    let mut t = match Tracer::load(&spec) { Ok(t) => t, Err(e) => { eprintln!("{e}"); let mut s: Option<&dyn std::error::Error> = std::error::Error::source(&e); while let Some(x)=s { let t=x.to_string(); eprintln!("caused by: {}", &t[t.len().saturating_sub(3000)..]); s=x.source(); } std::process::exit(1)} };
    println!("load {:?}", t0.elapsed()); let t0 = std::time::Instant::now();
    t.arm(&spec).unwrap();
    println!("arm {:?}", t0.elapsed());
    let mut ring = t.take_ring().unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(secs);
    let (mut ns, mut nc, mut ng) = (0,0,0);
    while std::time::Instant::now() < end {
        while let Some(item) = ring.next() { match ring::Record::decode(&item) {
            Some(ring::Record::Stack{head, frames}) => { ns += 1; if ns < 4 { println!("{head:?} {:x?}", ring::frames(frames).collect::<Vec<_>>()); } }
            Some(ring::Record::Code{head, filename, qualname, linetable}) => { nc+=1; if nc < 8 { println!("{} {} {} {}", String::from_utf8_lossy(filename), String::from_utf8_lossy(qualname), head.first_line, linetable.len()); } }
            Some(ring::Record::Gc(g)) => { ng += 1; if ng < 3 {println!("{g:?}");} }
            x => println!("{x:?}") } }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let t0 = std::time::Instant::now();
    let mut bytes = 0u64; let mut dom=[0u64;4];
    let sw = t.sweep(sweep::now_ns(), &|_,_| false, &mut |_, b: &Block| { bytes += b.size(); dom[b.domain() as usize]+=1; }).unwrap();
    println!("sweep {:?} {sw:?} bytes {bytes} {dom:?}", t0.elapsed());
    for e in std::fs::read_dir("/proc/self/fdinfo").unwrap() { let x = std::fs::read_to_string(e.unwrap().path()).unwrap_or_default(); if x.contains("run_cnt") { let g=|k:&str| x.lines().find(|l| l.starts_with(k)).and_then(|l| l.split_whitespace().last()).and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0); if g("run_cnt")>0.0 {println!("prog {} cnt {} ns/run {:.0}", g("prog_id"), g("run_cnt"), g("run_time_ns")/g("run_cnt"));} } }
    let t0 = std::time::Instant::now();
    t.disarm();
    println!("disarm {:?}", t0.elapsed());
    let c = t.counters().unwrap();
    for (n, v) in counter::NAMES.iter().zip(c) { print!("{n}={v} "); }
    println!("\nstacks {} codes {} gc {}", ns, nc, ng);
}
