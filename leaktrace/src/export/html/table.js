// Tables that sort by any column, filter, and show some hundred rows at a time.
/**
 * columns: [{ name, value(row), cell(row), number }]; filters: texts of a row that are searched; detail(row): what a row unfolds.
 */
const sortedTable = ({ id, caption, columns, rows, text, detail, page = 30 }) => {
  let [order, falling, limit, pattern] = [-1, true, page, ""];
  const open = new Set();
  const body = h("tbody");
  const shownRows = h("output", { class: "found" });
  const more = h("button", { type: "button", onclick: () => { limit += 4 * page; draw(); } });
  const heads = columns.map((column, index) => h("th", { scope: "col", class: column.number ? "number" : null },
    h("button", { type: "button", onclick: () => {
      falling = order === index ? !falling : Boolean(column.number);
      order = index;
      limit = page;
      draw();
    } }, column.name)));
  const chosen = () => {
    const kept = pattern ? rows.filter((row) => text(row).toLowerCase().includes(pattern)) : [...rows];
    if (order < 0) return kept;
    const { value } = columns[order];
    const sign = falling ? -1 : 1;
    return kept.sort((a, b) => {
      const [left, right] = [value(a), value(b)];
      return sign * (left < right ? -1 : left > right ? 1 : 0);
    });
  };
  const unfold = (row) => {
    open.has(row) ? open.delete(row) : open.add(row);
    draw();
    body.querySelector(`[data-row="${rows.indexOf(row)}"]`)?.focus();
  };
  const cells = (row) => columns.map((column, index) => {
    const shown = column.cell(row);
    if (index || !detail) return h("td", { class: column.number ? "number" : null }, shown);
    const button = { type: "button", class: "unfold", "aria-expanded": String(open.has(row)), "data-row": rows.indexOf(row), onclick: () => unfold(row) };
    return h("td", {}, h("button", button, shown));
  });
  const draw = () => {
    const list = chosen();
    heads.forEach((head, index) =>
      index === order ? head.setAttribute("aria-sort", falling ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
    body.replaceChildren(...list.slice(0, limit).flatMap((row) => [
      h("tr", {}, cells(row)),
      ...(detail && open.has(row) ? [h("tr", { class: "unfolded" }, h("td", { colspan: columns.length }, detail(row)))] : []),
    ]));
    shownRows.textContent = `${units.exact(Math.min(limit, list.length))} of ${units.exact(list.length)}`;
    more.hidden = list.length <= limit;
    more.textContent = `Show ${units.exact(Math.min(4 * page, list.length - limit))} more`;
  };
  const search = h("input", { type: "search", id: `${id}-search`, oninput: () => {
    pattern = search.value.trim().toLowerCase();
    limit = page;
    draw();
  } });
  draw();
  return [
    h("div", { class: "tools" }, h("label", { for: `${id}-search` }, "Filter"), search, shownRows),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
      h("table", { id: `${id}-table` }, h("caption", {}, caption), h("thead", {}, h("tr", {}, heads)), body)),
    more];
};
