// The page from its data, top to bottom.
const data = JSON.parse(document.getElementById("data").textContent);
const lines = linesOf(data);

const headline = () => {
  const { target, capture, totals, memory } = data;
  const total = (id, name, value, write) => fact(name, write(value), units.exact(value), { "data-total": id });
  return h("section", { id: "verdict", class: `verdict ${data.outlook}`, "aria-labelledby": "verdict-title" },
    h("h1", { id: "verdict-title" }, data.headline[0]),
    data.headline.slice(1).map((text) => h("p", {}, text)),
    h("p", { class: "process" }, `Python ${target.python.version}, ${data.process}`),
    h("dl", { class: "facts" },
      total("live_bytes", "Live bytes", totals.live_bytes, units.bytes),
      total("live_blocks", "Live blocks", totals.live_blocks, units.count),
      total("allocated_bytes", "Bytes allocated", totals.allocated_bytes, units.bytes),
      total("allocated_blocks", "Blocks allocated", totals.allocated_blocks, units.count),
      total("rss", "Resident at the end", target.rss_bytes.end, units.bytes),
      fact("Resident grew by", units.signed(memory.rss_grown_bytes, units.bytes)),
      fact("Watched for", units.span(capture.duration_seconds))));
};

const memoryChart = () => {
  const column = (rows, index) => rows.map((row) => [row[0], row[index]]);
  const causes = [["Python objects", "objects"], ["free space in arenas", "free"], ["native memory", "native"], ["files", "files"]];
  const levels = [
    { name: "resident set", style: "rss", points: column(data.moments, 1) },
    { name: "live, allocated since the attach", style: "alive", points: column(data.moments, 2) },
  ];
  const areas = data.censuses.length > 1
    ? causes.map(([name, style], index) => ({ name, style, points: column(data.censuses, index + 2) })) : [];
  return timeChart({ label: "Memory over time", areas, lines: levels, write: units.bytes });
};

const typesTable = () => data.types.length === 0
  ? [h("p", { class: "none" }, "No census of the heap was recorded.")]
  : sortedTable({
    id: "types",
    caption: "Types in the heap, from the first census to the last",
    rows: data.types,
    text: (type) => type.name,
    columns: [
      { name: "Type", value: (type) => type.name, cell: (type) => type.name },
      { name: "Objects", number: true, value: (type) => type.last, cell: (type) => units.count(type.last) },
      { name: "More", number: true, value: (type) => type.last - type.first, cell: (type) => units.signed(type.last - type.first, units.count) },
      { name: "Bytes", number: true, value: (type) => type.last_bytes, cell: (type) => units.bytes(type.last_bytes) },
      { name: "More bytes", number: true, value: (type) => type.last_bytes - type.first_bytes, cell: (type) => units.signed(type.last_bytes - type.first_bytes, units.bytes) },
      { name: "Rate", number: true, value: (type) => type.rate ?? 0, cell: (type) => (type.rate ? units.rate(type.rate, units.count) : "") },
      { name: "Over time", value: (type) => type.last_bytes, cell: (type) => sparkline(type.series, `Bytes of ${type.name} over time`) },
    ],
  });

const containersTable = () => sortedTable({
  id: "containers",
  caption: "Containers that grew",
  rows: data.containers,
  text: (row) => row[0],
  columns: [
    { name: "Container", value: (row) => row[0], cell: (row) => row[0] },
    { name: "Items", number: true, value: (row) => row[2], cell: (row) => units.exact(row[2]) },
    { name: "More", number: true, value: (row) => row[2] - row[1], cell: (row) => units.signed(row[2] - row[1], units.exact) },
    { name: "Rate", number: true, value: (row) => row[3], cell: (row) => units.rate(row[3], units.count) },
  ],
});

const plainTable = (caption, names, rows) => h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
  h("table", {}, h("caption", {}, caption),
    h("thead", {}, h("tr", {}, names.map((name, index) => h("th", { scope: "col", class: index ? "number" : null }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, index) => h("td", { class: index ? "number" : null }, cell)))))));

const collector = () => {
  const { gc, capture } = data;
  const state = { true: "on", false: "switched off: cycles are never freed" }[String(gc.enabled)] ?? "not known";
  const timedOf = (g) => g.pause_counts.reduce((sum, count) => sum + count, 0);
  const pause = (g, seconds) => (gc.pauses_known || timedOf(g) ? units.span(seconds) : "unknown");
  const rows = gc.generations.map((g) => [String(g.generation), units.exact(g.collections), units.exact(g.collected),
    units.exact(g.uncollectable), pause(g, g.pause_seconds.total), pause(g, g.pause_seconds.max)]);
  const timed = data.collections.some((collection) => collection[2] !== null);
  return [
    h("p", {}, `Automatic collection is ${state}.`),
    rows.length ? plainTable("By generation", ["Generation", "Collections", "Collected", "Uncollectable", "Pauses", "Longest"], rows)
      : h("p", { class: "none" }, "No collection was seen."),
    gc.other_interpreters.collections ? h("p", {}, `Beside these the collectors of other interpreters ran ${units.exact(gc.other_interpreters.collections)} times, in ${units.span(gc.other_interpreters.pause_seconds.total)}, the longest ${units.span(gc.other_interpreters.pause_seconds.max)}.`) : null,
    timed ? pauseChart(data.collections, capture.duration_seconds) : null,
  ];
};

const tracing = () => {
  const { capture, words } = data;
  const rows = [["Mode", capture.mode], ["Lost", words.lost], ["Coverage", words.coverage], ["Cost", words.cost]];
  if (words.windows) rows.push(["Windows", words.windows]);
  const seen = capture.events;
  rows.push(["Seen", `${units.exact(seen.alloc)} allocations, ${units.exact(seen.realloc)} reallocations, ${units.exact(seen.free)} frees, ${units.exact(seen.gc)} collections`]);
  const share = data.moments.slice(1).map((moment, index) => {
    const before = data.moments[index];
    return [moment[0], Math.max(0, (moment[4] - before[4]) / Math.max(moment[0] - before[0], 1e-9))];
  });
  return [
    h("dl", { class: "table" }, rows.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text)))),
    capture.notes.length ? h("ul", { class: "facts-list" }, capture.notes.map((text) => h("li", {}, text))) : null,
    h("h3", {}, "Cost over time"),
    timeChart({ label: "Time in probes", lines: [{ name: "CPUs' time in probes", style: "alive", points: share }], write: units.percent, base: 10 }),
  ];
};

const theme = () => {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const show = () => {
    const dark = chosen ?? system.matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    button.setAttribute("aria-pressed", String(dark));
  };
  system.addEventListener("change", show);
  button.addEventListener("click", () => { chosen = !(chosen ?? system.matches); show(); });
  show();
};

document.getElementById("when").textContent =
  `${new Date(data.started_at * 1000).toISOString().slice(0, 16).replace("T", " ")} UTC`;
theme();
document.getElementById("main").append(
  headline(),
  section("leaks", "What grows", ...leaks(data, lines).filter(Boolean)),
  section("memory", "Memory over time", memoryChart()),
  section("flame", "Flame graph", ...flameGraph(data)),
  section("lines", "All lines", ...linesTable(data, lines)),
  section("types", "Types", ...typesTable(), ...(data.containers.length ? [h("h3", {}, "Containers"), ...containersTable()] : [])),
  section("gc", "Garbage collector", ...collector().filter(Boolean)),
  section("tracing", "Coverage and cost", ...tracing().filter(Boolean)));
document.documentElement.dataset.ready = "yes";
