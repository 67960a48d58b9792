-- A leaktrace recording, version 1. docs/recording.md explains each table.
CREATE TABLE document (
    name TEXT PRIMARY KEY,
    json TEXT NOT NULL
) WITHOUT ROWID;

-- Stacks: texts, frames and a prefix tree, each numbered in the order of appearance.
CREATE TABLE text (id INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE frame (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    function INTEGER NOT NULL REFERENCES text,
    file INTEGER NOT NULL REFERENCES text,
    line INTEGER NOT NULL
);
CREATE TABLE stack (
    id INTEGER PRIMARY KEY,
    parent INTEGER NOT NULL,
    frame INTEGER NOT NULL REFERENCES frame
);

-- What each site is now.
CREATE TABLE site (
    id INTEGER PRIMARY KEY,
    stack INTEGER NOT NULL,
    domain TEXT NOT NULL,
    live_blocks INTEGER NOT NULL,
    live_bytes INTEGER NOT NULL,
    allocated_blocks INTEGER NOT NULL,
    allocated_bytes INTEGER NOT NULL,
    lost_blocks INTEGER NOT NULL,
    first_ns INTEGER NOT NULL,
    oldest_ns INTEGER,
    lived INTEGER NOT NULL,
    cohorts TEXT NOT NULL,
    lost_references TEXT NOT NULL,
    threads TEXT NOT NULL,
    more_threads INTEGER NOT NULL
);

-- Over time. A row of `sample` says what changed at that scan; what did not has none.
CREATE TABLE scan (
    id INTEGER PRIMARY KEY,
    time_ns INTEGER NOT NULL,
    rss_bytes INTEGER NOT NULL,
    live_blocks INTEGER NOT NULL,
    live_bytes INTEGER NOT NULL,
    allocated_blocks INTEGER NOT NULL,
    allocated_bytes INTEGER NOT NULL,
    lost INTEGER NOT NULL,
    coverage REAL,
    probe_seconds REAL NOT NULL,
    collector_cpu_seconds REAL NOT NULL,
    collector_rss_bytes INTEGER NOT NULL
);
CREATE TABLE sample (
    scan INTEGER NOT NULL,
    site INTEGER NOT NULL,
    live_blocks INTEGER NOT NULL,
    live_bytes INTEGER NOT NULL,
    allocated_blocks INTEGER NOT NULL,
    allocated_bytes INTEGER NOT NULL,
    PRIMARY KEY (scan, site)
) WITHOUT ROWID;

-- The cyclic collector: sums at each scan, and the last collections one by one.
CREATE TABLE gc_sample (
    scan INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    collections INTEGER NOT NULL,
    collected INTEGER NOT NULL,
    uncollectable INTEGER NOT NULL,
    pause_ns INTEGER NOT NULL,
    PRIMARY KEY (scan, generation)
) WITHOUT ROWID;
CREATE TABLE collection (
    id INTEGER PRIMARY KEY,
    generation INTEGER NOT NULL,
    full INTEGER NOT NULL,
    start_ns INTEGER NOT NULL,
    pause_ns INTEGER
);

-- Censuses of the heap.
CREATE TABLE census (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    live_bytes INTEGER NOT NULL,
    rss_bytes INTEGER NOT NULL,
    objects_bytes INTEGER NOT NULL,
    fragmentation_bytes INTEGER NOT NULL,
    native_bytes INTEGER NOT NULL,
    file_bytes INTEGER NOT NULL
);
CREATE TABLE type (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE type_sample (
    census INTEGER NOT NULL,
    type INTEGER NOT NULL,
    objects INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (census, type)
) WITHOUT ROWID;

-- For people: each site with its innermost frame.
CREATE VIEW site_line AS
SELECT site.id, site.domain, file.text AS file, frame.line, function.text AS function,
       site.live_blocks, site.live_bytes, site.allocated_blocks, site.allocated_bytes
FROM site
LEFT JOIN stack ON stack.id = site.stack
LEFT JOIN frame ON frame.id = stack.frame
LEFT JOIN text AS file ON file.id = frame.file
LEFT JOIN text AS function ON function.id = frame.function;

-- Source around lines that grow.
CREATE TABLE source (
    file TEXT NOT NULL,
    line INTEGER NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (file, line)
) WITHOUT ROWID;
