// Opens a report page as a user does, uses it, and prints what it shows as JSON.
// page.mjs FOLDER_OF_PLAYWRIGHT_CORE FOLDER_OF_AXE_CORE BROWSER PAGE.html [FOLDER_FOR_PICTURES]
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [playwright, axe, browserPath, file, pictures] = process.argv.slice(2);
const require = createRequire(import.meta.url);
const { chromium } = require(playwright);

const browser = await chromium.launch({
  executablePath: browserPath,
  headless: true,
  args: ["--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage"],
});
try {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: "light" });
  const page = await context.newPage();
  const said = [];
  const asked = [];
  page.on("console", (message) => said.push(message.text()));
  page.on("pageerror", (error) => said.push(String(error)));
  page.on("request", (request) => asked.push(request.url()));
  const address = pathToFileURL(path.resolve(file)).href;
  await page.goto(address);
  await page.waitForSelector("html[data-ready=yes]");
  const picture = async (name) => pictures && page.screenshot({ path: path.join(pictures, `${name}.png`), fullPage: true });
  const text = (selector) => page.locator(selector).first().innerText();

  // What it says.
  const facts = await page.evaluate(() => ({
    totals: Object.fromEntries([...document.querySelectorAll("[data-total]")].map((fact) =>
      [fact.dataset.total, Number(fact.querySelector(".detail").textContent.replaceAll(",", ""))])),
    headline: document.querySelector("h1").textContent,
    cards: [...document.querySelectorAll(".card")].map((card) => ({
      place: card.querySelector(".place").textContent,
      source: card.querySelector(".source .here")?.textContent ?? "",
      functions: [...card.querySelectorAll(".stack .function")].map((name) => name.textContent),
      spark: card.querySelectorAll(".spark path").length,
    })),
    charts: [...document.querySelectorAll(".chart svg")].map((svg) => svg.getAttribute("aria-label")),
    touched: window.touched ?? null,
  }));
  facts.load = await page.evaluate(() => {
    const [entry] = performance.getEntriesByType("navigation");
    return entry.loadEventEnd - entry.startTime;
  });

  // The flame graph: one click shows a frame in full width, Escape all again; the search counts what matches.
  facts.flame = {};
  for (const name of ["leaked", "growth", "inuse_space", "inuse_objects", "alloc_space", "alloc_objects"]) {
    await page.selectOption("#flame-value", name);
    facts.flame[name] = await text("#flame-said");
  }
  await page.selectOption("#flame-value", "inuse_space");
  const wide = (node) => page.evaluate((node) => parseFloat(document.querySelector(`[data-node="${node}"]`).style.width), node);
  const narrow = await page.evaluate(() => [...document.querySelectorAll(".frame")]
    .map((frame) => [frame.dataset.node, parseFloat(frame.style.width)]).sort((a, b) => b[1] - a[1]).at(-1));
  await page.click(`[data-node="${narrow[0]}"]`);
  assert.equal(await wide(narrow[0]), 100);
  await page.keyboard.press("Escape");
  assert.ok(Math.abs((await wide(narrow[0])) - narrow[1]) < 0.01);
  await page.keyboard.press("ArrowDown");
  const below = await page.evaluate(() => document.activeElement.dataset.node);
  await page.keyboard.press("ArrowUp");
  assert.notEqual(await page.evaluate(() => document.activeElement.dataset.node), below);
  await page.keyboard.press("Enter");
  const searched = (await page.locator(".frame").first().getAttribute("title")).split(" ")[0];
  await page.fill("#flame-search", searched);
  assert.ok(await page.locator(".frame.match").count());
  facts.matched = await text(".tools .found");
  await page.fill("#flame-search", "");

  // Tables: a column sorts both ways, a text filters, a line unfolds its stacks.
  const column = (index) => page.evaluate((index) =>
    [...document.querySelectorAll("#lines-table tbody tr")].map((row) => row.cells[index].textContent), index);
  const head = page.locator("#lines-table th button", { hasText: /^Blocks$/ });
  await head.click();
  const falling = await column(3);
  assert.equal(await page.locator("#lines-table th[aria-sort=descending]").count(), 1);
  await head.click();
  const rising = await column(3);
  assert.equal(await page.locator("#lines-table th[aria-sort=ascending]").count(), 1);
  facts.blocks = { falling, rising };
  const place = facts.cards[0]?.place ?? (await column(0))[0];
  await page.fill("#lines-search", place);
  facts.filtered = await column(0);
  await page.locator("#lines-table .unfold").first().click();
  assert.ok(await page.locator("#lines-table .unfolded .stack li").count());
  await page.fill("#lines-search", "");
  facts.types = await page.locator("#types-table tbody tr").count();

  // The chart tells the numbers under its cursor, also by keyboard.
  const chart = page.locator("#memory .chart svg");
  await chart.focus();
  const end = await text("#memory .readout");
  await page.keyboard.press("ArrowLeft");
  assert.notEqual(await text("#memory .readout"), end);

  // For everybody, in both themes, and on a phone and on paper.
  await page.addScriptTag({ path: path.join(axe, "axe.min.js") }).catch(() => null);
  facts.policy = await page.evaluate(() => typeof window.axe);
  const inspect = async (theme, width) => {
    // The page's own policy keeps every other script out: it is inspected without.
    const other = await browser.newContext({ viewport: { width, height: 900 }, colorScheme: theme, bypassCSP: true });
    const copy = await other.newPage();
    await copy.goto(address);
    await copy.waitForSelector("html[data-ready=yes]");
    await copy.addScriptTag({ path: path.join(axe, "axe.min.js") });
    await copy.locator("#lines-table .unfold").first().click();
    const found = await copy.evaluate(() => window.axe.run());
    const overflow = await copy.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(await copy.evaluate(() => document.documentElement.dataset.theme), theme);
    await copy.click("#theme");
    assert.notEqual(await copy.evaluate(() => document.documentElement.dataset.theme), theme);
    await copy.click("#theme");
    if (pictures) await copy.screenshot({ path: path.join(pictures, `${theme}-${width}.png`), fullPage: true });
    await other.close();
    return { violations: found.violations.map((v) => [v.id, v.nodes.length, v.nodes[0].html, v.nodes[0].failureSummary]), passes: found.passes.length, overflow };
  };
  facts.inspected = { light: await inspect("light", 1280), dark: await inspect("dark", 1280), phone: await inspect("light", 375) };
  await page.emulateMedia({ media: "print" });
  assert.equal(await page.locator("#sections").isVisible(), false);
  assert.ok(await page.locator(".flame").isVisible());
  await picture("print");

  facts.said = said.filter((line) => !line.includes("Content Security Policy"));
  facts.asked = asked.filter((url) => url !== address);
  console.log(JSON.stringify(facts));
} finally {
  await browser.close();
}
