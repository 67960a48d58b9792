// A flame graph, outermost frames on top: each frame is a button that shows what is below it in full width.
const FLAME_VALUES = [
  { name: "leaked", title: "Live bytes at sites that grow", of: (site) => (site[0] === "growing" ? site[2] : 0), write: units.bytes },
  { name: "growth", title: "Growth, bytes an hour", of: (site) => site[6], write: (value) => units.bytes(value) + "/h" },
  { name: "inuse_space", title: "Live bytes", of: (site) => site[2], write: units.bytes },
  { name: "inuse_objects", title: "Live blocks", of: (site) => site[3], write: units.count },
  { name: "alloc_space", title: "Bytes allocated since the attach", of: (site) => site[4], write: units.bytes },
  { name: "alloc_objects", title: "Blocks allocated since the attach", of: (site) => site[5], write: units.count },
];
/** Frames narrower than this are not drawn. */
const NARROWEST = 4;
const ROW = 20;

const flameGraph = (data) => {
  const parents = data.nodes.map((node) => node[0]);
  const nameOf = (node) => data.texts[data.frames[data.nodes[node][1]][1]];
  const placeOf = (node) => {
    const [, , file, line] = data.frames[data.nodes[node][1]];
    return data.texts[file] ? data.texts[file] + (line ? `:${line}` : "") : "";
  };
  const children = data.nodes.map(() => []);
  const roots = [];
  parents.forEach((parent, node) => (parent < 0 ? roots : children[parent]).push(node));
  let shown = FLAME_VALUES[0];
  let values = [];
  let total = 0;
  let zoomed = -1;
  let pattern = "";
  let active = -1;
  const weigh = () => {
    values = new Float64Array(data.nodes.length);
    for (const site of data.sites) values[site[7]] += shown.of(site);
    // Each node is after its parent.
    for (let node = values.length - 1; node >= 0; node--) if (parents[node] >= 0) values[parents[node]] += values[node];
    total = roots.reduce((sum, node) => sum + values[node], 0);
    const heavier = (a, b) => values[b] - values[a] || a - b;
    roots.sort(heavier);
    for (const list of children) if (list.length > 1) list.sort(heavier);
  };
  const matches = (node) => pattern && `${nameOf(node)} ${placeOf(node)}`.toLowerCase().includes(pattern);
  const matched = () => {
    const weigh = (nodes) => nodes.reduce((sum, node) => sum + (matches(node) ? values[node] : weigh(children[node])), 0);
    return weigh(roots);
  };
  const words = (node) =>
    `${nameOf(node)}${placeOf(node) ? ` (${placeOf(node)})` : ""}: ${shown.write(values[node])}, ${units.percent(values[node] / Math.max(total, 1))}`;

  const said = h("p", { class: "readout", "aria-live": "polite", id: "flame-said" });
  const box = h("div", { class: "flame", role: "group", "aria-label": "Flame graph: arrows move, Enter zooms, Escape shows all" });
  const found = h("output", { class: "found" });
  const reset = h("button", { type: "button", onclick: () => zoom(-1) }, "Show all");
  const search = h("input", { type: "search", id: "flame-search", placeholder: "function or file", oninput: () => {
    pattern = search.value.trim().toLowerCase();
    draw();
  } });
  const choose = h("select", { id: "flame-value", onchange: () => {
    shown = FLAME_VALUES.find((value) => value.name === choose.value);
    zoomed = active = -1;
    weigh();
    draw();
  } }, FLAME_VALUES.map((value) => h("option", { value: value.name }, value.title)));

  const zoom = (node) => {
    zoomed = node;
    active = node;
    draw();
    focusActive();
  };
  const focusActive = () => box.querySelector(`[data-node="${active}"]`)?.focus({ preventScroll: false });
  let width = 0;
  const draw = () => {
    if (!width) return;
    const frames = [];
    let depth = 0;
    const place = (node, row, left, room) => {
      if (room * width < NARROWEST || !values[node]) return;
      depth = Math.max(depth, row);
      frames.push([node, row, left, room]);
      let at = left;
      for (const child of children[node]) {
        const share = (room * values[child]) / values[node];
        place(child, row + 1, at, share);
        at += share;
      }
    };
    const way = [];
    for (let node = zoomed < 0 ? -1 : parents[zoomed]; node >= 0; node = parents[node]) way.unshift(node);
    way.forEach((node, row) => frames.push([node, row, 0, 1]));
    if (zoomed >= 0) place(zoomed, way.length, 0, 1);
    else roots.reduce((at, node) => { place(node, 0, at, values[node] / total); return at + values[node] / total; }, 0);
    if (!frames.some(([node]) => node === active)) active = frames[0]?.[0] ?? -1;
    box.replaceChildren(...frames.map(([node, row, left, room]) => button(node, row, left, room, row < way.length)));
    box.style.height = `${(depth + 1) * ROW}px`;
    const part = pattern ? matched() : 0;
    found.textContent = pattern ? `${units.percent(part / Math.max(total, 1))} match (${shown.write(part)})` : "";
    reset.disabled = zoomed < 0;
    said.textContent = total
      ? `${shown.title}: ${shown.write(total)} in all.${zoomed >= 0 ? ` Shown: ${words(zoomed)}.` : ""}`
      : `${shown.title}: none.`;
  };
  const button = (node, row, left, room, above) => {
    const name = nameOf(node);
    const native = !data.frames[data.nodes[node][1]][0];
    const label = words(node);
    const element = h("button", {
      type: "button",
      class: ["frame", native && "native", above && "above", matches(node) && "match"].filter(Boolean).join(" "),
      "data-node": node,
      tabindex: node === active ? 0 : -1,
      title: label,
      "aria-label": label,
    }, room * width > 30 ? name : "");
    element.style.left = `${(left * 100).toFixed(4)}%`;
    element.style.width = `${(room * 100).toFixed(4)}%`;
    element.style.top = `${row * ROW}px`;
    return element;
  };
  // There may be a thousand frames: one listener for all.
  const tell = ({ target }) => { if (target.dataset.node) said.textContent = words(Number(target.dataset.node)); };
  box.addEventListener("focusin", tell);
  box.addEventListener("pointerover", tell);
  box.addEventListener("click", ({ target }) => { if (target.dataset.node) zoom(Number(target.dataset.node)); });
  box.addEventListener("keydown", (event) => {
    const drawn = (node) => node !== undefined && node >= 0 && box.querySelector(`[data-node="${node}"]`);
    const siblings = active < 0 ? [] : (parents[active] < 0 ? roots : children[parents[active]]).filter(drawn);
    const index = siblings.indexOf(active);
    const next = {
      ArrowUp: () => parents[active],
      ArrowDown: () => children[active].find(drawn),
      ArrowLeft: () => siblings[index - 1],
      ArrowRight: () => siblings[index + 1],
    }[event.key];
    if (event.key === "Escape") return zoom(-1);
    if (!next || active < 0) return;
    event.preventDefault();
    const node = next();
    if (!drawn(node)) return;
    drawn(active).tabIndex = -1;
    active = node;
    drawn(active).tabIndex = 0;
    focusActive();
  });
  shown = FLAME_VALUES.find((value) => value.name === data.value) ?? FLAME_VALUES[0];
  weigh();
  if (!total && !data.value) {
    // Nothing leaks: what lives is of more use than an empty picture.
    shown = FLAME_VALUES.find((value) => value.name === "inuse_space");
    weigh();
  }
  choose.value = shown.name;
  onWidth(box, (now) => { width = now; draw(); });
  return [
    h("div", { class: "tools" },
      h("label", { for: "flame-value" }, "Show"), choose, h("label", { for: "flame-search" }, "Find"), search, found, reset),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Frames" }, box), said];
};
