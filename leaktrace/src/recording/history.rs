//! What a recording tells over time.

use std::collections::{BTreeMap, HashMap};

use super::Recording;
use super::check::{Damage, number, real, refuse};
use crate::model::Tally;
use crate::model::trail::seconds;

/// Everything over time. Times are seconds since the attach.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct History {
    /// At each scan that was kept, oldest first.
    pub moments: Vec<Moment>,
    /// The last collections, and all full ones that were told one by one, oldest first.
    pub collections: Vec<PastCollection>,
    /// The censuses that were kept, oldest first.
    pub censuses: Vec<CensusPoint>,
    /// Types, each with what it had at `censuses`; those that changed most, by bytes, first.
    pub types: Vec<TypeHistory>,
}

/// One collection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PastCollection {
    /// When it began, since the attach.
    pub seconds: f64,
    pub generation: u8,
    /// `None` where it was not measured.
    pub pause_seconds: Option<f64>,
}

/// The whole process at one scan.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Moment {
    pub seconds: f64,
    pub scan: u64,
    pub rss_bytes: u64,
    pub live: Tally,
    /// Since the attach.
    pub allocated: Tally,
    /// Events lost since the attach.
    pub lost: u64,
    pub coverage: Option<f64>,
    pub probe_seconds: f64,
    pub collector_cpu_seconds: f64,
    pub collector_rss_bytes: u64,
}

/// A census.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CensusPoint {
    pub seconds: f64,
    pub rss_bytes: u64,
    /// The resident memory by cause, bytes.
    pub objects: u64,
    pub fragmentation: u64,
    pub native: u64,
    pub file: u64,
}

/// A type over time: objects and their bytes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TypeHistory {
    pub name: String,
    pub levels: Vec<Tally>,
}

/// A site at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Level {
    pub seconds: f64,
    pub live: Tally,
    pub allocated: Tally,
}

impl Recording {
    /// What is over time. What of it cannot be read is left out.
    pub fn history(&self) -> History {
        let from = &self.opened.connection;
        // What could not be read was told when the recording was opened, or is missing here.
        let mut damage = Damage::default();
        let mut history = History::default();
        let start = self.ledger().timeline().start_ns();
        damage.rows(from, "scan", "SELECT * FROM scan ORDER BY id", |row| {
            history.moments.push(Moment {
                seconds: seconds(row.get::<_, u64>("time_ns")?.saturating_sub(start)),
                scan: row.get("id")?,
                rss_bytes: number(row, "rss_bytes")?,
                live: Tally { blocks: number(row, "live_blocks")?, bytes: number(row, "live_bytes")? },
                allocated: Tally { blocks: number(row, "allocated_blocks")?, bytes: number(row, "allocated_bytes")? },
                lost: number(row, "lost")?,
                coverage: row.get::<_, Option<f64>>("coverage")?.filter(|ratio| ratio.is_finite()),
                probe_seconds: real(row, "probe_seconds")?,
                collector_cpu_seconds: real(row, "collector_cpu_seconds")?,
                collector_rss_bytes: number(row, "collector_rss_bytes")?,
            });
            Ok(())
        });
        damage.rows(from, "collection", "SELECT * FROM collection ORDER BY id", |row| {
            history.collections.push(PastCollection {
                seconds: seconds(row.get::<_, u64>("start_ns")?.saturating_sub(start)),
                generation: row.get("generation")?,
                pause_seconds: row.get::<_, Option<u64>>("pause_ns")?.map(seconds),
            });
            Ok(())
        });
        let mut places = HashMap::new();
        damage.rows(from, "census", "SELECT * FROM census ORDER BY id LIMIT 4096", |row| {
            places.insert(row.get::<_, u64>("id")?, history.censuses.len());
            history.censuses.push(CensusPoint {
                seconds: real(row, "time")?,
                rss_bytes: number(row, "rss_bytes")?,
                objects: number(row, "objects_bytes")?,
                fragmentation: number(row, "fragmentation_bytes")?,
                native: number(row, "native_bytes")?,
                file: number(row, "file_bytes")?,
            });
            Ok(())
        });
        history.types = self.types_at(&places, &mut damage);
        history
    }

    /// Objects and their bytes by type, as the last census counted them; empty where there is none.
    pub fn types(&self) -> BTreeMap<String, (u64, u64)> {
        let query =
            "SELECT name, objects, bytes, max(census) FROM type_sample JOIN type ON type.id = type GROUP BY type";
        let mut types = BTreeMap::new();
        Damage::default().rows(&self.opened.connection, "type", query, |row| {
            types.insert(row.get("name")?, (number(row, "objects")?, number(row, "bytes")?));
            Ok(())
        });
        types
    }

    fn types_at(&self, places: &HashMap<u64, usize>, damage: &mut Damage) -> Vec<TypeHistory> {
        let from = &self.opened.connection;
        let mut index = HashMap::new();
        let mut types: Vec<TypeHistory> = Vec::new();
        damage.rows(from, "type", "SELECT id, name FROM type ORDER BY id LIMIT 65536", |row| {
            index.insert(row.get::<_, u64>("id")?, types.len());
            types.push(TypeHistory { name: row.get("name")?, levels: Vec::new() });
            Ok(())
        });
        damage.rows(from, "type_sample", "SELECT * FROM type_sample ORDER BY type, census", |row| {
            let type_ = *index.get(&row.get::<_, u64>("type")?).ok_or_else(|| refuse("of a type that is not there"))?;
            let place =
                *places.get(&row.get::<_, u64>("census")?).ok_or_else(|| refuse("of a census that is not there"))?;
            let levels = &mut types[type_].levels;
            let last = levels.last().copied().unwrap_or_default();
            levels.resize(place, last);
            levels.push(Tally { blocks: number(row, "objects")?, bytes: number(row, "bytes")? });
            Ok(())
        });
        for type_ in &mut types {
            let last = type_.levels.last().copied().unwrap_or_default();
            if !type_.levels.is_empty() {
                type_.levels.resize(places.len(), last);
            }
        }
        let change = |type_: &TypeHistory| match &type_.levels[..] {
            [first, .., last] => first.bytes.abs_diff(last.bytes),
            _ => 0,
        };
        types.sort_by_key(|type_| std::cmp::Reverse(change(type_)));
        types
    }

    /// A site over time, by its number in the ledger ([`SiteReport::number`](crate::report::SiteReport)): one level at
    /// each scan that changed it.
    pub fn levels(&self, site: usize) -> Vec<Level> {
        let query =
            "SELECT time_ns, sample.* FROM sample JOIN scan ON scan.id = sample.scan WHERE site = ? ORDER BY scan";
        let start = self.ledger().timeline().start_ns();
        let read = || -> rusqlite::Result<Vec<Level>> {
            let mut statement = self.opened.connection.prepare_cached(query)?;
            let rows = statement.query_map([site], |row| {
                Ok(Level {
                    seconds: seconds(row.get::<_, u64>("time_ns")?.saturating_sub(start)),
                    live: Tally { blocks: number(row, "live_blocks")?, bytes: number(row, "live_bytes")? },
                    allocated: Tally {
                        blocks: number(row, "allocated_blocks")?,
                        bytes: number(row, "allocated_bytes")?,
                    },
                })
            })?;
            rows.collect()
        };
        read().unwrap_or_default()
    }

    /// What each site had allocated by `seconds` after the attach, at the last scan kept before then.
    pub fn allocated_by(&self, seconds: f64) -> HashMap<usize, Tally> {
        let until = self.ledger().timeline().start_ns().saturating_add((seconds.max(0.0) * 1e9) as u64);
        let query = "SELECT site, max(scan), allocated_blocks, allocated_bytes FROM sample \
                     WHERE scan <= (SELECT max(id) FROM scan WHERE time_ns <= ?) GROUP BY site";
        let read = || -> rusqlite::Result<HashMap<usize, Tally>> {
            let mut statement = self.opened.connection.prepare_cached(query)?;
            let rows = statement.query_map([until], |row| {
                Ok((
                    row.get::<_, u64>(0)? as usize,
                    Tally { blocks: number(row, "allocated_blocks")?, bytes: number(row, "allocated_bytes")? },
                ))
            })?;
            rows.collect()
        };
        read().unwrap_or_default()
    }

    /// Lines of the target's source that were kept: file and line to text.
    pub fn sources(&self) -> HashMap<(String, u32), String> {
        let mut sources = HashMap::new();
        Damage::default().rows(&self.opened.connection, "source", "SELECT * FROM source", |row| {
            sources.insert((row.get("file")?, row.get("line")?), row.get("text")?);
            Ok(())
        });
        sources
    }
}
