//! What the BPF programs and the collector share: the wire types ([`wire`]), the probe sites ([`site`]) and the walk
//! over the interpreter's frames ([`walk`]), which is written once and runs both in the kernel and in host tests.
#![cfg_attr(not(feature = "user"), no_std)]

pub mod site;
pub mod walk;
pub mod wire;
