//! Map operations that aya 0.14 does not offer: batches, look-up-and-delete, and arrays mapped into this process.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd};
use memmap2::{Mmap, MmapOptions};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A plain value that the kernel copies as bytes.
pub trait Plain: FromBytes + IntoBytes + KnownLayout + Immutable + Copy + Default {}
impl<T: FromBytes + IntoBytes + KnownLayout + Immutable + Copy + Default> Plain for T {}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<()> {
    // SAFETY: `attr` is a bpf_attr whose pointers were taken from live buffers of the sizes that the map has.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, &raw mut *attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn zeroed() -> bpf_attr {
    // SAFETY: bpf_attr is a union of integer structs; all zero is how the kernel wants unused bytes.
    unsafe { std::mem::zeroed() }
}

/// A hash map with keys `K` and values `V`.
#[derive(Debug, Clone, Copy)]
pub struct HashTable<'a, K, V> {
    fd: BorrowedFd<'a>,
    kv: PhantomData<(K, V)>,
}

impl<'a, K: Plain, V: Plain> HashTable<'a, K, V> {
    /// `fd` must be of a hash map whose key and value sizes are those of `K` and `V`.
    pub fn new(fd: BorrowedFd<'a>) -> Self {
        Self { fd, kv: PhantomData }
    }

    /// Visits every element once, in batches; what is added or removed meanwhile may or may not be seen.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &V)) -> io::Result<()> {
        let mut room = 1 << 14;
        let (mut keys, mut values) = (vec![K::default(); room], vec![V::default(); room]);
        // The kernel's cursor: a bucket number.
        let (mut cursor, mut next) = (0u64, 0u64);
        let mut first = true;
        loop {
            let mut attr = zeroed();
            attr.batch.map_fd = self.fd.as_raw_fd() as u32;
            attr.batch.in_batch = if first { 0 } else { &raw mut cursor as u64 };
            attr.batch.out_batch = &raw mut next as u64;
            attr.batch.keys = keys.as_mut_ptr() as u64;
            attr.batch.values = values.as_mut_ptr() as u64;
            attr.batch.count = room as u32;
            let result = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
            // SAFETY: the kernel wrote the number of elements here on success and on ENOENT.
            let count = unsafe { attr.batch.count } as usize;
            let done = match result {
                Ok(()) => false,
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
                Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && room < 1 << 22 => {
                    // A bucket with more elements than there is room for.
                    room *= 4;
                    keys.resize(room, K::default());
                    values.resize(room, V::default());
                    continue;
                }
                Err(e) => return Err(e),
            };
            for (key, value) in keys.iter().zip(&values).take(count.min(room)) {
                visit(key, value);
            }
            if done {
                return Ok(());
            }
            cursor = next;
            first = false;
        }
    }

    /// Removes `key` and gives the value that it had at that moment, `None` when it was not there. Kernel >= 5.14.
    pub fn take(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::default();
        let mut attr = zeroed();
        // SAFETY: writes to the element form of the union.
        let elem = unsafe { &mut attr.__bindgen_anon_2 };
        elem.map_fd = self.fd.as_raw_fd() as u32;
        elem.key = std::ptr::from_ref(key) as u64;
        elem.__bindgen_anon_1.value = &raw mut value as u64;
        match bpf(bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attr) {
            Ok(()) => Ok(Some(value)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Adds `key` unless it is there; `false` when it is.
    pub fn add(&self, key: &K, value: &V) -> io::Result<bool> {
        const NOEXIST: u64 = 1;
        let mut attr = zeroed();
        // SAFETY: writes to the element form of the union.
        let elem = unsafe { &mut attr.__bindgen_anon_2 };
        elem.map_fd = self.fd.as_raw_fd() as u32;
        elem.key = std::ptr::from_ref(key) as u64;
        elem.__bindgen_anon_1.value = std::ptr::from_ref(value) as u64;
        elem.flags = NOEXIST;
        match bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// An array map made with `BPF_F_MMAPABLE`, read without a system call. The kernel side writes it at the same time, so each
/// word is read volatile.
#[derive(Debug)]
pub struct MappedArray<T> {
    map: Mmap,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Plain> MappedArray<T> {
    /// `fd` must be of a mappable array of `len` values of `T`, whose size is a multiple of 8.
    pub fn new(fd: impl AsFd, len: usize) -> io::Result<Self> {
        // SAFETY: BPF programs write this memory meanwhile; it is only read through volatile pointers.
        let map = unsafe { MmapOptions::new().len(len * size_of::<T>()).map(fd.as_fd().as_raw_fd())? };
        Ok(Self { map, len, of: PhantomData })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value at `index`, `None` past the end. Its words may stem from different moments.
    pub fn get(&self, index: usize) -> Option<T> {
        if index >= self.len {
            return None;
        }
        // SAFETY: in bounds by the check above; T is plain and the kernel aligns values to 8.
        Some(unsafe { self.map.as_ptr().cast::<T>().add(index).read_volatile() })
    }
}
