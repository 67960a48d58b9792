//! Domains of CPython that another allocator than pymalloc and the C allocator serves: mimalloc (free-threaded builds, or
//! `PYTHONMALLOC=mimalloc`), or one that an extension put in the table. Nothing of its insides is known, so the entries and the
//! returns of its functions tell all.

use std::collections::BTreeMap;

use leaktrace_common::site::{domain, op, reg};

use super::assemble::{Inputs, domain_name};
use super::builder::{Builder, Module};
use super::code::{Code, Sweep};
use super::slots::{DOMAINS, FUNCTIONS, Slots};
use super::{libc, placement};
use crate::target::ElfFile;

/// What each function of a table is to the BPF side, and the registers of its arguments behind the context (System V ABI).
const ENTRIES: [(u8, u8, Option<u8>); 4] = [
    (op::C_MALLOC, reg::RSI, None),
    (op::C_CALLOC, reg::RSI, Some(reg::RDX)),
    (op::C_REALLOC, reg::RSI, Some(reg::RDX)),
    (op::C_FREE, reg::RSI, None),
];

/// The domains that such an allocator serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Foreign([bool; DOMAINS.len()]);

impl Foreign {
    /// In a free-threaded build the default of mem and obj, and from 3.15 that of raw, is mimalloc (CPython
    /// `Objects/obmalloc.c`); pymalloc is not used there.
    pub(super) fn of(python: &Code<'_>, slots: &Slots, free_threaded: bool) -> Self {
        let raw = slots.get(domain::RAW).default;
        let mut foreign = Self::default();
        for domain in DOMAINS {
            let (functions, default) = (slots.get(domain).layers.functions, slots.get(domain).default);
            let of_c = functions == raw && libc::goes_to(python, raw[0]);
            foreign.0[usize::from(domain)] = !of_c && (free_threaded || functions != default && functions != raw);
        }
        foreign
    }

    pub(super) fn serves(self, domain: u8) -> bool {
        self.0.get(usize::from(domain)).is_some_and(|&foreign| foreign)
    }

    pub(super) fn serves_any(self) -> bool {
        self.0.contains(&true)
    }

    pub(super) fn probes(self, inputs: &Inputs<'_>, python: &Module<'_>, slots: &Slots, builder: &mut Builder) {
        let mut functions: BTreeMap<(u64, usize), u8> = BTreeMap::new();
        for domain in DOMAINS.into_iter().filter(|&domain| self.serves(domain)) {
            for (index, address) in slots.get(domain).layers.functions.into_iter().enumerate() {
                // One that serves several domains does not tell which: mem and obj are shown as obj, as elsewhere.
                functions.insert((address, index), domain);
            }
        }
        if functions.is_empty() {
            return;
        }
        builder.feature(if inputs.free_threaded { "mimalloc" } else { "custom-allocator" });
        let (own, others): (Vec<_>, Vec<_>) =
            functions.into_iter().partition(|((address, _), _)| python.code.is_code(*address));
        for (function, domain) in own {
            probe(python, function, domain, builder);
        }
        for (function, domain) in others {
            let file = inputs.maps.find(function.0).and_then(|mapping| mapping.file);
            let Some(file) = file.and_then(|id| ElfFile::open(inputs.target, inputs.maps, id).ok()) else {
                builder.gap(format!(
                    "domain {} is served by code in no file ({:#x}): its blocks are not traced",
                    domain_name(domain),
                    function.0
                ));
                continue;
            };
            let code = Code::new(&file);
            let sweep = Sweep::new(&code, |_| false);
            let module = Module { code: &code, sweep: &sweep, file: builder.file(&code) };
            probe(&module, function, domain, builder);
        }
    }
}

fn probe(module: &Module<'_>, (address, index): (u64, usize), domain: u8, builder: &mut Builder) {
    let (op, a, b) = ENTRIES[index];
    let what = format!("{} {}", domain_name(domain), FUNCTIONS[index]);
    let Some(place) = placement::entry(module.code, module.sweep, address, Some(a), b) else {
        builder.gap(format!("no place for a probe on {what} at {address:#x}: its blocks are not traced right"));
        return;
    };
    builder.entry(module, &place, op, domain, &what, address);
    if op != op::C_FREE {
        builder.returning(module, address, op, &what);
    }
}
