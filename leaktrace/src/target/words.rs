//! Words of the target's memory in a buffer.

/// The 8 bytes at an offset; `None` beyond the end.
pub(crate) fn u64_at(bytes: &[u8], offset: u32) -> Option<u64> {
    let bytes = bytes.get(offset as usize..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

pub(crate) fn i64_at(bytes: &[u8], offset: u32) -> Option<i64> {
    u64_at(bytes, offset).map(|word| word as i64)
}

pub(crate) fn u32_at(bytes: &[u8], offset: u32) -> Option<u32> {
    let bytes = bytes.get(offset as usize..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}
