// Levels over time with axes: areas on top of each other, lines above them, and a cursor that tells the numbers.
const axisSteps = (top, wanted, base) => {
  const raw = Math.max(top, 1e-9) / wanted;
  const unit = base === 1024 ? 1024 ** Math.max(0, Math.floor(Math.log(raw) / Math.log(1024))) : 1;
  const power = 10 ** Math.floor(Math.log10(raw / unit));
  const step = [1, 2, 5, 10].map((factor) => factor * power * unit).find((size) => size >= raw);
  return Array.from({ length: Math.floor(top / step) + 1 }, (_, index) => index * step);
};
const timeSteps = (from, to, wanted) => {
  const sizes = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];
  const step = sizes.find((size) => (to - from) / size <= wanted) ?? 86400 * Math.ceil((to - from) / wanted / 86400);
  const first = Math.ceil(from / step) * step;
  return Array.from({ length: Math.max(0, Math.floor((to - first) / step) + 1) }, (_, index) => first + index * step);
};

/**
 * areas, lines: [{ name, style, points: [[seconds, value], ...] }]; the areas have the same moments. write: a value as text.
 */
const timeChart = ({ label, areas = [], lines = [], write, base = 1024 }) => {
  const all = [...areas, ...lines].filter((series) => series.points.length > 0);
  if (!all.some((series) => series.points.length > 1)) return h("p", { class: "none" }, "Too few looks to draw.");
  const moments = all.flatMap((series) => series.points.map((point) => point[0]));
  const [from, to] = [Math.min(...moments), Math.max(...moments)];
  const stacked = areas.map((_, index) =>
    areas[index].points.map((point, at) => areas.slice(0, index + 1).reduce((sum, area) => sum + area.points[at][1], 0)));
  const top = 1.05 * Math.max(...stacked.flat(), ...lines.flatMap((series) => series.points.map((point) => point[1])), 1e-9);
  const readout = h("p", { class: "readout", "aria-live": "polite" });
  const keys = h("ul", { class: "keys" },
    [...areas].reverse().concat(lines).map((series) => h("li", {}, h("i", { class: `key ${series.style}` }), series.name)));
  const box = h("div", { class: "chart" });
  const first = (series) => series.points[0][1];
  const last = (series) => series.points[series.points.length - 1][1];
  const summary = all.map((series) => `${series.name} from ${write(first(series))} to ${write(last(series))}`).join("; ");
  let cursor = to;
  const near = (points) =>
    points.reduce((best, point) => (Math.abs(point[0] - cursor) < Math.abs(best[0] - cursor) ? point : best));
  const read = () => {
    const parts = all.map((series) => `${series.name} ${write(near(series.points)[1])}`);
    readout.textContent = `After ${units.span(near(all[0].points)[0])}: ${parts.join(", ")}.`;
  };
  const height = 240;
  const pad = { left: 64, right: 10, top: 8, bottom: 24 };
  onWidth(box, (width) => {
    const x = (seconds) => pad.left + ((seconds - from) * (width - pad.left - pad.right)) / Math.max(to - from, 1e-9);
    const y = (value) => height - pad.bottom - (value * (height - pad.top - pad.bottom)) / top;
    const path = (points) => "M" + points.map(([seconds, value]) => `${x(seconds).toFixed(1)} ${y(value).toFixed(1)}`).join("L");
    const mark = s("line", { class: "cursor", y1: pad.top, y2: height - pad.bottom });
    const move = () => {
      const place = x(near(all[0].points)[0]);
      mark.setAttribute("x1", place);
      mark.setAttribute("x2", place);
      read();
    };
    const key = (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const points = all[0].points;
      const index = points.indexOf(near(points)) + step;
      cursor = points[Math.min(Math.max(index, 0), points.length - 1)][0];
      move();
    };
    const point = (event) => {
      const place = event.clientX - svg.getBoundingClientRect().left;
      cursor = from + ((place - pad.left) * (to - from)) / Math.max(width - pad.left - pad.right, 1);
      move();
    };
    const svg = s("svg", { width, height, role: "img", tabindex: 0, "aria-label": `${label}. ${summary}.`, onpointermove: point, onkeydown: key },
      axisSteps(top, 5, base).map((value) => [
        s("line", { class: "grid", x1: pad.left, x2: width - pad.right, y1: y(value), y2: y(value) }),
        s("text", { class: "tick", x: pad.left - 6, y: y(value) + 4, "text-anchor": "end" }, write(value))]),
      timeSteps(from, to, Math.max(2, Math.floor(width / 90))).map((seconds) =>
        s("text", { class: "tick", x: Math.min(x(seconds), width - 24), y: height - 6, "text-anchor": "middle" }, units.span(seconds))),
      areas.map((area, index) => {
        const upper = area.points.map((point, at) => [point[0], stacked[index][at]]);
        const lower = area.points.map((point, at) => [point[0], index ? stacked[index - 1][at] : 0]).reverse();
        return s("path", { class: `area ${area.style}`, d: path([...upper, ...lower]) + "Z" });
      }).reverse(),
      lines.filter((series) => series.points.length).map((series) => s("path", { class: `level ${series.style}`, d: path(series.points) })),
      mark);
    box.replaceChildren(svg);
    move();
  });
  return h("figure", {}, box, keys, readout);
};

/** Pauses as points in time: higher is longer, by powers of ten. collections: [generation, seconds, pause or null]. */
const pauseChart = (collections, seconds) => {
  const known = collections.filter((collection) => collection[2] !== null);
  const longest = Math.max(...known.map((collection) => collection[2]), 1e-3);
  const [low, high] = [-5, Math.ceil(Math.log10(longest))];
  const generations = [...new Set(known.map((collection) => collection[0]))].sort();
  const box = h("div", { class: "chart" });
  const height = 180;
  const pad = { left: 64, right: 10, top: 8, bottom: 24 };
  onWidth(box, (width) => {
    const x = (time) => pad.left + (time * (width - pad.left - pad.right)) / Math.max(seconds, 1e-9);
    const y = (pause) => {
      const level = (Math.max(Math.log10(Math.max(pause, 1e-9)), low) - low) / (high - low);
      return height - pad.bottom - level * (height - pad.top - pad.bottom);
    };
    const decades = Array.from({ length: high - low + 1 }, (_, index) => 10 ** (low + index));
    const label = `Pauses of ${known.length} collections; the longest took ${units.span(longest)}`;
    box.replaceChildren(s("svg", { width, height, role: "img", "aria-label": label },
      decades.map((pause) => [
        s("line", { class: "grid", x1: pad.left, x2: width - pad.right, y1: y(pause), y2: y(pause) }),
        s("text", { class: "tick", x: pad.left - 6, y: y(pause) + 4, "text-anchor": "end" }, units.span(pause))]),
      timeSteps(0, seconds, Math.max(2, Math.floor(width / 90))).map((time) =>
        s("text", { class: "tick", x: Math.min(x(time), width - 24), y: height - 6, "text-anchor": "middle" }, units.span(time))),
      generations.map((generation) => {
        const points = known.filter((collection) => collection[0] === generation);
        return s("path", { class: `dots generation${generation}`, d: points.map((c) => `M${x(c[1]).toFixed(1)} ${y(c[2]).toFixed(1)}h0`).join("") });
      })));
  });
  const keys = generations.map((generation) =>
    h("li", {}, h("i", { class: `key generation${generation}` }), `generation ${generation}`));
  return h("figure", {}, box, h("ul", { class: "keys" }, keys));
};
