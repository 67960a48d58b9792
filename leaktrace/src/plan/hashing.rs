//! The factor of the perfect hash by which BPF finds a site from its address.

use leaktrace_common::site::{SITE_SLOTS, slot};

/// Factors tried. Of random ones, one in 7 fits 500 sites in 65,536 slots, one in 2,000 fits 1,000, one in 7 million fits 1,450.
const TRIES: u32 = 20_000_000;

/// An odd factor with which [`slot`] gives each address its own slot; the same for the same addresses. `None`: too many
/// addresses, or an address twice.
pub fn perfect_factor(addresses: &[u64]) -> Option<u64> {
    let mut distinct = addresses.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() != addresses.len() {
        return None;
    }
    let mut seen = vec![0u32; SITE_SLOTS as usize];
    let mut seed = 0u64;
    for round in 1..=TRIES {
        // splitmix64 (Steele, Lea, Flood 2014).
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut factor = seed;
        factor = (factor ^ (factor >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        factor = (factor ^ (factor >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        factor = (factor ^ (factor >> 31)) | 1;
        let fits = addresses.iter().all(|&address| {
            let place = &mut seen[slot(address, factor) as usize];
            std::mem::replace(place, round) != round
        });
        if fits {
            return Some(factor);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn as_many_sites_as_a_distribution_build_has_get_a_slot_each() {
        let addresses: Vec<u64> = (0..700u64).map(|i| 0x42_0000 + i * i * 7 % 0x28_0000 * 16 + i % 16).collect();
        let distinct: BTreeSet<u64> = addresses.iter().copied().collect();
        let addresses: Vec<u64> = distinct.into_iter().collect();
        let factor = perfect_factor(&addresses).expect("a factor");
        let slots: BTreeSet<u32> = addresses.iter().map(|&a| slot(a, factor)).collect();
        assert_eq!(slots.len(), addresses.len());
        assert_eq!(perfect_factor(&addresses), Some(factor));
    }

    #[test]
    fn the_impossible_is_refused() {
        assert_eq!(perfect_factor(&[1, 1]), None);
        assert!(perfect_factor(&[]).is_some());
    }
}
