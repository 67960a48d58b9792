// Elements. Texts, whoever wrote them, are set as text.
const SVG = "http" + "://www.w3.org/2000/svg";
const fill = (element, attributes, children) => {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
};
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** A section with its heading, in the order of the page and of its navigation. */
const section = (id, title, ...children) => {
  const heading = h("h2", { id: `${id}-title` }, title);
  document.getElementById("sections").append(h("a", { href: `#${id}` }, title));
  return h("section", { id, "aria-labelledby": `${id}-title` }, heading, ...children);
};

/** A value under its name. */
const fact = (name, value, detail, attributes) =>
  h("div", { class: "fact", ...attributes },
    h("dt", {}, name), h("dd", {}, value, detail ? h("span", { class: "detail" }, detail) : null));

/** Calls back with the width of an element now and whenever it changes. */
const onWidth = (element, draw) => {
  let last = 0;
  new ResizeObserver(() => {
    const width = Math.floor(element.clientWidth);
    if (width > 0 && width !== last) draw((last = width));
  }).observe(element);
};

/** A level over time without axes. */
const sparkline = (values, label) => {
  if (!values || values.length < 2) return h("span", { class: "spark" });
  const [width, height] = [96, 22];
  const top = Math.max(...values, 1);
  const at = (value, index) =>
    `${((index * width) / (values.length - 1)).toFixed(1)} ${(height - 2 - (value * (height - 4)) / top).toFixed(1)}`;
  const line = "M" + values.map(at).join("L");
  return s("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    s("path", { class: "under", d: `${line}L${width} ${height}L0 ${height}Z` }), s("path", { class: "line", d: line }));
};
