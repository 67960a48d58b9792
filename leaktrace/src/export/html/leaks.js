// Lines that allocate: what grows, why it is thought so, through which stacks, and the source around it.
/** Stacks of a line that are shown at first, and frames of each. */
const STACKS = 3;
const FRAMES = 12;
/** Lines that grow and are told in full. */
const CARDS = 10;

/** The lines as objects: the page's data has lists, which do not repeat the names ten thousand times. */
const linesOf = (data) => {
  const lines = data.lines.map(([verdict, place, live_bytes, live_blocks, allocated_bytes, allocated_blocks], rank) => ({
    verdict, place, live_bytes, live_blocks, allocated_bytes, allocated_blocks,
    growth: data.growth[rank], ...data.told[rank], sites: [],
  }));
  data.sites.forEach((site, index) => lines[site[8]].sites.push(index));
  return lines;
};

const badge = (verdict) => h("span", { class: `badge ${verdict}` }, verdict);

const excerpt = (data, file, line) => {
  const kept = data.sources[file];
  if (!kept || !line) return null;
  const near = Object.keys(kept).map(Number).filter((number) => Math.abs(number - line) <= 3).sort((a, b) => a - b);
  if (!near.includes(line)) return null;
  const indent = Math.min(...near.filter((number) => kept[number].trim()).map((number) => kept[number].search(/\S/)));
  return h("pre", { class: "source", tabindex: 0, role: "group", "aria-label": `Source of ${file}, line ${line}` }, near.map((number) =>
    h("span", { class: number === line ? "here" : null }, `${String(number).padStart(5)}  ${kept[number].slice(indent)}`)));
};

const stackList = (data, site) => {
  const frames = [];
  for (let node = data.sites[site][7]; node >= 0; node = data.nodes[node][0]) frames.push(data.frames[data.nodes[node][1]]);
  const item = ([python, name, file, line]) => h("li", { class: python ? null : "native" },
    h("span", { class: "function" }, data.texts[name]), " ",
    h("span", { class: "where" }, data.texts[file] ? data.texts[file] + (line ? `:${line}` : "") : ""));
  const list = h("ol", { class: "stack" }, frames.slice(0, FRAMES).map(item));
  if (frames.length > FRAMES) {
    const rest = frames.slice(FRAMES);
    const more = h("li", { class: "more" }, h("button", { type: "button", onclick: () => more.replaceWith(...rest.map(item)) },
      `${rest.length} more frames`));
    list.append(more);
  }
  return list;
};

const stacksOf = (data, line) => {
  const all = line.sites;
  const title = (site) => {
    const [verdict, , bytes, blocks] = data.sites[site];
    return h("p", { class: "through" }, badge(verdict), ` ${units.bytes(bytes)} live in ${units.count(blocks)} blocks`);
  };
  const one = (site) => [all.length > 1 ? title(site) : null, stackList(data, site)];
  const rest = all.slice(STACKS, 200);
  const box = h("div", {}, all.slice(0, STACKS).flatMap(one));
  if (rest.length) {
    const button = h("button", { type: "button", onclick: () => button.replaceWith(...rest.flatMap(one).filter(Boolean)) },
      `Show ${rest.length} other stacks`);
    box.append(button);
  }
  return box;
};

const lineDetail = (data, line) => h("div", { class: "told" },
  line.facts ? h("ul", { class: "facts-list" }, line.facts.map((text) => h("li", {}, text))) : null,
  excerpt(data, line.file, line.line), stacksOf(data, line));

const leakCard = (data, line, rank) => {
  const [estimate, low, high, blocks] = line.growth;
  const bytes = (value) => units.rate(value, units.bytes);
  return h("article", { class: "card", "aria-labelledby": `leak-${rank}` },
    h("h3", { id: `leak-${rank}` }, badge(line.verdict), h("span", { class: "place" }, line.place)),
    h("div", { class: "gauge" },
      h("p", { class: "rate" }, h("strong", {}, bytes(estimate)), ` between ${bytes(low)} and ${bytes(high)}, ${units.rate(blocks, (value) => `${units.count(value)} blocks`)}`),
      sparkline(line.series, `Live bytes of ${line.place} over time, now ${units.bytes(line.live_bytes)}`),
      h("p", { class: "live" }, `${units.bytes(line.live_bytes)} live in ${units.count(line.live_blocks)} blocks`)),
    lineDetail(data, line));
};

const leaks = (data, lines) => {
  const growing = lines.filter((line) => line.verdict === "growing");
  if (!growing.length) return [h("p", { class: "none" }, "No line was seen to grow without bound.")];
  const more = growing.length - CARDS;
  return [...growing.slice(0, CARDS).map((line, rank) => leakCard(data, line, rank)),
    more > 0 ? h("p", { class: "none" }, `${more} more grow; they are in the table of all lines.`) : null];
};

const linesTable = (data, lines) => sortedTable({
  id: "lines",
  caption: "All lines that allocated, the worst first",
  rows: lines,
  text: (line) => `${line.place} ${line.verdict}`,
  detail: (line) => lineDetail(data, line),
  columns: [
    { name: "Line", value: (line) => line.place, cell: (line) => line.place },
    { name: "Verdict", value: (line) => line.verdict, cell: (line) => badge(line.verdict) },
    { name: "Live", number: true, value: (line) => line.live_bytes, cell: (line) => units.bytes(line.live_bytes) },
    { name: "Blocks", number: true, value: (line) => line.live_blocks, cell: (line) => units.count(line.live_blocks) },
    { name: "Growth", number: true, value: (line) => line.growth?.[0] ?? 0, cell: (line) => (line.growth ? units.rate(line.growth[0], units.bytes) : "") },
    { name: "Allocated", number: true, value: (line) => line.allocated_bytes, cell: (line) => units.bytes(line.allocated_bytes) },
    { name: "Over time", value: (line) => line.live_bytes, cell: (line) => sparkline(line.series, `Live bytes of ${line.place}`) },
  ],
});
