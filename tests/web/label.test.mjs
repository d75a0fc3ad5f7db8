// The page of `graft label`, driven by its keys in a headless Chromium; screenshots for people to look at.
//
// GRAFT_PAGE is the program that serves it (host/label/examples/leaves.rs), GRAFT_OUT the folder of the screenshots,
// GRAFT_CHROMIUM the browser. Run by `cargo xtask web`.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

const { GRAFT_PAGE, GRAFT_OUT, GRAFT_CHROMIUM } = process.env;
const out = (name) => join(GRAFT_OUT, `${name}.png`);
const laptop = { width: 1366, height: 768 };
const phone = { width: 390, height: 844 };
let browser;

before(async () => {
  mkdirSync(GRAFT_OUT, { recursive: true });
  // Root, as in a container, has no sandbox; the only page is our own.
  browser = await chromium.launch({ executablePath: GRAFT_CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
});
after(() => browser?.close());

// A folder of leaves, served until the test ends.
async function serve(t) {
  const dir = mkdtempSync(join(tmpdir(), "graft-web-"));
  const child = spawn(GRAFT_PAGE, [dir], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => {
    child.kill("SIGKILL");
    rmSync(dir, { recursive: true, force: true });
  });
  for await (const line of createInterface({ input: child.stdout })) {
    const rows = () => readFileSync(join(dir, "labels.csv"), "utf8").trim().split("\n").slice(1);
    return { url: JSON.parse(line).url, rows, child };
  }
  throw new Error("expected a line with the page's url, found the end of the output");
}

// A person's own browser window. All that it asks for must be of this server, and nothing may be complained of.
async function open(t, url, who, options = {}) {
  const context = await browser.newContext({ viewport: laptop, ...options });
  t.after(() => context.close());
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (m) => ["error", "warning"].includes(m.type()) && complaints.push(m.text()));
  page.on("pageerror", (e) => complaints.push(String(e)));
  page.on("request", (r) => new URL(r.url()).host !== new URL(url).host && complaints.push(`asks for ${r.url()}`));
  page.complaints = complaints;
  await page.goto(who ? `${url}&who=${who}` : url);
  if (who) await page.locator("#picture:not([hidden])").waitFor();
  return page;
}

const file = (page) => page.locator("#file").textContent();
const shows = (page, name) => page.locator("#file").getByText(name, { exact: true }).waitFor();
const counted = (page, text) => page.locator("#count", { hasText: text }).waitFor();
// Presses a key and waits until another picture is there.
async function press(page, key) {
  const before = await file(page);
  await page.keyboard.press(key);
  await page.waitForFunction((b) => !["", b].includes(document.querySelector("#file").textContent), before);
  return before;
}
const loaded = (page) => page.waitForFunction(() => {
  const images = [document.querySelector("#picture"), ...document.querySelectorAll("#strip img")];
  return images.every((i) => i.hidden || (i.complete && i.naturalWidth > 0));
});

test("labels, undo, skip and search by keys alone", async (t) => {
  const { url, rows } = await serve(t);
  const page = await open(t, url, "ann");
  assert.ok(!page.url().includes("token"), "the token stays in the address");
  const labels = ["healthy", "rust", "blight", "mildew", "leaf_spot"];
  const done = [];
  for (const key of ["1", "2", "3", "4", "5"]) done.push(await press(page, key));
  await counted(page, "5 of 30");
  for (const [i, name] of done.entries()) assert.ok(rows().some((r) => r.startsWith(`${name},${labels[i]},north/2026-11-27`)), name);
  assert.equal(new Set(done).size, 5);

  await page.keyboard.press("u");
  await counted(page, "4 of 30");
  await shows(page, done[4]);
  await page.keyboard.press("u");
  await counted(page, "3 of 30");
  await shows(page, done[3]);
  await press(page, "2");
  await shows(page, done[4]);
  await press(page, "2");
  await counted(page, "5 of 30");
  assert.ok(rows().some((r) => r.startsWith(`${done[4]},rust,`)));

  const skipped = await press(page, "s");
  await page.locator("#toast", { hasText: "skipped" }).waitFor();
  assert.equal(rows().length, 5);
  await press(page, "ArrowLeft");
  await shows(page, skipped);
  await press(page, "ArrowRight");
  const unusable = await press(page, "x");
  await counted(page, "6 of 30");
  assert.ok(!rows().some((r) => r.startsWith(unusable)));

  await page.keyboard.press("/");
  await page.keyboard.type("mil");
  await page.locator("#found li", { hasText: "mildew" }).waitFor();
  await page.screenshot({ path: out("search") });
  const found = await press(page, "Enter");
  await counted(page, "7 of 30");
  assert.ok(rows().some((r) => r.startsWith(`${found},mildew,`)));
  await page.keyboard.press("n");
  await page.keyboard.type("mosaic");
  const added = await press(page, "Enter");
  await counted(page, "8 of 30");
  assert.ok(rows().some((r) => r.startsWith(`${added},mosaic,`)));
  const agreed = await page.locator("#answer .first b").textContent();
  const agreeing = await press(page, "Enter");
  await counted(page, "9 of 30");
  assert.ok(rows().some((r) => r.startsWith(`${agreeing},${agreed},`)));

  // Another visit goes on, with what was skipped at the end.
  await page.reload();
  await counted(page, "9 of 30");
  for (let left = 20; left > 0; left -= 1) await press(page, "1");
  await counted(page, "29 of 30");
  await shows(page, skipped);
  await page.keyboard.press("6");
  await page.locator("#note", { hasText: "All done" }).waitFor();
  await page.screenshot({ path: out("done") });
  assert.equal(rows().length, 29);
  assert.deepEqual(page.complaints, []);
});

test("two people: different pictures, a conflict, and its end", async (t) => {
  const { url, rows } = await serve(t);
  const [ann, ben] = [await open(t, url, "ann"), await open(t, url, "ben", { colorScheme: "dark" })];
  assert.notEqual(await file(ann), await file(ben));
  const picture = await press(ann, "1");
  await counted(ben, "1 of 30");
  // Ben comes upon it among the pictures that look like his own.
  await ben.waitForFunction(() => document.querySelector("#strip .labelled"));
  await ben.locator("#strip .labelled").click();
  await ben.locator("#file", { hasText: picture }).waitFor();
  await press(ben, "2");
  await ben.locator("#conflicts", { hasText: "1 conflict" }).waitFor();
  assert.ok(!rows().some((r) => r.startsWith(picture)));
  await ann.locator("#conflicts", { hasText: "1 conflict" }).waitFor();
  await press(ann, "c");
  await shows(ann, picture);
  assert.match(await ann.locator("#conflict").textContent(), /ann: healthyben: rust/);
  await loaded(ann);
  await ann.screenshot({ path: out("conflict") });
  await press(ben, "c");
  await loaded(ben);
  await ben.screenshot({ path: out("conflict-dark") });
  await press(ann, "2");
  await ann.locator("#conflicts").waitFor({ state: "hidden" });
  assert.ok(rows().some((r) => r.startsWith(`${picture},rust,`)));
  assert.deepEqual([ann.complaints, ben.complaints], [[], []]);
});

test("clicks wait for a server that does not answer, and none is lost or taken twice", async (t) => {
  const { url, rows } = await serve(t);
  const page = await open(t, url, "ann");
  await press(page, "1");
  await counted(page, "1 of 30");
  // What is shown and the three ahead; what cannot be seen cannot be labelled.
  await page.waitForFunction(() => {
    const fetched = performance.getEntriesByType("resource");
    return fetched.filter((entry) => entry.name.includes("/picture/")).length >= 5;
  });
  await page.context().setOffline(true);
  const done = [await press(page, "2"), await press(page, "2"), await press(page, "2")];
  await page.locator("#alarm", { hasText: "3 clicks are not stored yet" }).waitFor();
  await page.screenshot({ path: out("offline") });
  assert.equal(rows().length, 1);
  await page.context().setOffline(false);
  await counted(page, "4 of 30");
  await page.locator("#alarm").waitFor({ state: "hidden" });
  for (const name of done) assert.equal(rows().filter((r) => r.startsWith(`${name},rust,`)).length, 1);
});

test("looks right in light, dark and on a phone", async (t) => {
  const { url } = await serve(t);
  const views = [
    ["light", { colorScheme: "light" }],
    ["dark", { colorScheme: "dark" }],
    ["phone", { colorScheme: "light", viewport: phone, hasTouch: true, isMobile: true }],
    ["phone-dark", { colorScheme: "dark", viewport: phone, hasTouch: true, isMobile: true }],
  ];
  for (const [name, options] of views) {
    const page = await open(t, url, name, options);
    for (const key of ["1", "2", "1"]) await press(page, key);
    await loaded(page);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(wide <= 0, `${name}: the page is ${wide} pixels wider than the window`);
    const heights = await page.locator("#classes button").evaluateAll((all) => all.map((b) => b.offsetHeight));
    assert.ok(Math.max(...heights) < 50, `${name}: classes are ${heights} pixels high`);
    if (!name.startsWith("phone")) {
      const high = await page.evaluate(() => document.documentElement.scrollHeight - innerHeight);
      assert.ok(high <= 0, `${name}: the page is ${high} pixels higher than the window`);
    }
    await page.screenshot({ path: out(name) });
    if (name.startsWith("phone")) {
      await page.evaluate(() => scrollTo(0, document.body.scrollHeight));
      await page.screenshot({ path: out(`${name}-below`) });
    } else {
      await page.keyboard.press("?");
      await page.screenshot({ path: out(`keys-${name}`) });
      await page.keyboard.press("?");
      await page.locator("#help").waitFor({ state: "hidden" });
    }
    assert.deepEqual(page.complaints, []);
  }
  const page = await open(t, url, "");
  await page.locator("#name[open]").waitFor();
  await page.screenshot({ path: out("name") });
  await page.keyboard.type("Ann");
  await page.keyboard.press("Enter");
  await page.locator("#picture:not([hidden])").waitFor();
  assert.equal(await page.locator("#who").textContent(), "Ann");
});

test("the next picture is there at once", async (t) => {
  const { url } = await serve(t);
  const page = await open(t, url, "ann");
  await loaded(page);
  const times = [];
  for (let i = 0; i < 15; i += 1) {
    await page.waitForTimeout(150);
    // From the key to the frame in which the next picture is decoded.
    times.push(await page.evaluate(async () => {
      const image = document.querySelector("#picture");
      const start = performance.now();
      document.dispatchEvent(new KeyboardEvent("keydown", { key: "1" }));
      await image.decode();
      await new Promise(requestAnimationFrame);
      return performance.now() - start;
    }));
  }
  times.sort((a, b) => a - b);
  t.diagnostic(`key to next picture: median ${times[7].toFixed(0)} ms, slowest ${times[14].toFixed(0)} ms`);
  assert.ok(times[7] < 500, `median ${times[7]} ms`);
});

test("without the token there is no page", async (t) => {
  const { url } = await serve(t);
  const context = await browser.newContext();
  t.after(() => context.close());
  const page = await context.newPage();
  const answer = await page.goto(new URL(url).origin);
  assert.equal(answer.status(), 401);
  assert.match(await page.textContent("body"), /open the whole address/);
});
