// Pages of `graft report` in a headless Chromium: light, dark, on a phone and printed; screenshots for people to look at.
//
// GRAFT_REPORTS is a folder of pages, each NAME.html with its NAME.json (host/report/examples/pages.rs writes them), GRAFT_OUT the
// folder of the screenshots, GRAFT_CHROMIUM the browser. Run by `cargo xtask web`.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const { GRAFT_REPORTS, GRAFT_OUT, GRAFT_CHROMIUM } = process.env;
const names = readdirSync(GRAFT_REPORTS).filter((f) => f.endsWith(".html")).map((f) => f.replace(/\.html$/, ""));
const out = (name) => join(GRAFT_OUT, `report-${name}`);
const json = (name) => JSON.parse(readFileSync(join(GRAFT_REPORTS, `${name}.json`), "utf8"));
let browser;

before(async () => {
  mkdirSync(GRAFT_OUT, { recursive: true });
  browser = await chromium.launch({ executablePath: GRAFT_CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
});
after(() => browser?.close());

// Opens a page of which nothing may be complained, and which may ask for nothing but itself and what lies in it.
async function open(t, name, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  t.after(() => context.close());
  const page = await context.newPage();
  const url = pathToFileURL(join(GRAFT_REPORTS, `${name}.html`)).href;
  page.complaints = [];
  page.on("console", (m) => page.complaints.push(m.text()));
  page.on("pageerror", (e) => page.complaints.push(String(e)));
  page.on("request", (r) => r.url() !== url && !r.url().startsWith("data:") && page.complaints.push(`asks for ${r.url()}`));
  page.on("dialog", (d) => page.complaints.push(`asks: ${d.message()}`));
  await page.goto(url);
  return page;
}

// Pairs of texts of charts that lie over each other.
const overlaps = (page) => page.evaluate(() => {
  const found = [];
  for (const svg of document.querySelectorAll("svg.chart, svg.matrix")) {
    const texts = [...svg.querySelectorAll("text")].map((t) => ({ text: t.textContent, box: t.getBoundingClientRect() }));
    const frame = svg.getBoundingClientRect();
    for (const [i, a] of texts.entries()) {
      if (a.box.left < frame.left - 1 || a.box.right > frame.right + 1) found.push(`${a.text} leaves its chart`);
      for (const b of texts.slice(i + 1)) {
        const across = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
        const down = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
        if (across > 1 && down > 3) found.push(`${a.text} and ${b.text}`);
      }
    }
  }
  return found;
});

// The exact numbers of a page by their keys.
const shown = (page) => page.evaluate(() =>
  Object.fromEntries([...document.querySelectorAll("data[data-key]")].map((d) => [d.dataset.key, { value: Number(d.value), text: d.textContent }])));

for (const name of names) {
  test(`${name}: light, dark, on a phone and printed`, async (t) => {
    const views = [
      ["light", { colorScheme: "light" }],
      ["dark", { colorScheme: "dark" }],
      ["phone", { colorScheme: "light", viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true }],
    ];
    for (const [view, options] of views) {
      const page = await open(t, name, options);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wide <= 0, `${view}: the page is ${wide} pixels wider than the window`);
      const broken = await page.locator("img").evaluateAll((all) => all.filter((i) => !i.complete || i.naturalWidth === 0).length);
      assert.equal(broken, 0, `${view}: pictures that are none`);
      assert.deepEqual(await overlaps(page), [], view);
      await page.screenshot({ path: out(`${name}-${view}.png`), fullPage: true });
      assert.deepEqual(page.complaints, [], view);
    }
    const page = await open(t, name, { colorScheme: "dark" });
    await page.pdf({ path: out(`${name}.pdf`), format: "A4", printBackground: false });
    await page.emulateMedia({ media: "print" });
    const paper = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.equal(paper, "rgb(255, 255, 255)", "paper is white, whatever the screen was");
    assert.deepEqual(page.complaints, []);
  });

  test(`${name}: the page tells what the JSON tells`, async (t) => {
    const [page, report] = [await open(t, name), json(name)];
    const found = await shown(page);
    const expected = { median_ms: report.latency.median_ms };
    const { classes, tags, values } = report.told;
    if (classes) {
      expected.top1 = classes.top1.share;
      expected.macro_f1 = classes.macro_f1;
      expected.area = classes.coverage.area;
      expected.ece_before = classes.calibration.ece_before;
      if (classes.calibration.ece_after !== null) expected.ece_after = classes.calibration.ece_after;
      if (classes.coverage.sure) expected.sure_risk = classes.coverage.sure.risk;
      classes.classes.forEach((c, i) => { if (c.recall.n) expected[`recall.${i}`] = c.recall.share; });
      classes.groups.slice(0, 60).forEach((g, i) => { expected[`group.${i}`] = g.right.share; });
      assert.match(found.top1.text, new RegExp(`^${(100 * classes.top1.share).toFixed(1).slice(0, -1)}`));
      const counts = await page.locator("svg.matrix .count").allTextContents();
      const all = classes.confusion.flat().filter((n) => n > 0).map(String);
      if (classes.classes.length <= 60) assert.deepEqual(counts, all);
      assert.equal(await page.locator("figure").count(), classes.mistakes.length);
    }
    tags?.tags.forEach((tag, i) => { if (tag.recall.n) expected[`recall.${i}`] = tag.recall.share; });
    values?.values.forEach((v) => { expected[`mae.${v.label}`] = v.mae.value; });
    for (const [key, value] of Object.entries(expected)) assert.equal(found[key]?.value, value, key);
    assert.ok(Object.keys(expected).length > 1);
    assert.match(await page.title(), /- graft report$/);
  });
}
