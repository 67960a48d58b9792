//! The BPF side in operation: loads and arms the programs, reads what they find, sweeps the table of blocks. Dropping the
//! [`Tracer`] disarms everything.


pub mod attach;
pub mod load;

