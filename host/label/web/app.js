// The page of graft label: shows a picture, takes keys, sends clicks. What was clicked is shown at once and sent behind;
// it is sent again until it was acknowledged, with a number of its own by which the server knows it again.

const $ = (id) => document.getElementById(id);
const one = (tag, props = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), props);
  made.append(...children);
  return made;
};

const stored = (key) => { try { return localStorage.getItem(key); } catch { return null; } };
const store = (key, value) => { try { localStorage.setItem(key, value); } catch { /* as it was */ } };

const page = {
  who: new URLSearchParams(location.search).get("who")?.trim() || stored("who") || "",
  session: "",
  state: null,
  card: null, // what is shown
  ahead: [], // what comes next, as the server has it
  trail: [], // pictures that were shown, oldest first
  at: 0, // place in the trail; its length where the newest is shown
  outbox: [], // clicks that were not acknowledged
  sent: 0, // clicks since the page was loaded
  isSending: false,
  isBlind: stored("blind") === "yes",
  fetched: new Map(),
};

// The token is a cookie by now, and better not in a history.
history.replaceState(null, "", page.who && location.search.includes("who=") ? `/?who=${encodeURIComponent(page.who)}` : "/");

/* Talking to the server */

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, options);
  const isJson = response.headers.get("content-type")?.includes("json");
  const answer = isJson ? await response.json() : { error: (await response.text()).trim() };
  if (!response.ok) throw Object.assign(new Error(answer.error), { status: response.status });
  return answer;
}

const me = () => `who=${encodeURIComponent(page.who)}`;
const nonce = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");

function send(path, body) {
  page.sent += 1;
  page.outbox.push({ path, body: { who: page.who, nonce: nonce(), ...body } });
  return drain();
}

// One after the other, in the order of the clicks.
async function drain() {
  if (page.isSending) return;
  page.isSending = true;
  for (let wait = 250; page.outbox.length > 0;) {
    const { path, body } = page.outbox[0];
    try {
      const answer = await ask(path, body);
      page.outbox.shift();
      alarm("");
      wait = 250;
      take(answer);
      if (path === "/api/undo" && answer.done) {
        toast("taken back");
        await goTo(answer.done.picture);
      }
    } catch (error) {
      if (error.status >= 400 && error.status < 500 && error.status !== 401) {
        page.outbox.shift();
        toast(error.message);
        if (body.picture !== undefined && path !== "/api/class") await goTo(body.picture);
        continue;
      }
      const count = page.outbox.length;
      const kept = `${count} click${count > 1 ? "s are" : " is"} not stored yet`;
      alarm(error.status ? `${kept}: ${error.message}` : `${kept}: is graft label still running? This page tries again.`);
      await new Promise((done) => setTimeout(done, wait));
      wait = Math.min(2 * wait, 4000);
    }
  }
  page.isSending = false;
  if (!page.card) advance();
}

function take({ session, state, next }) {
  if (page.session && session !== page.session) {
    location.reload(); // Numbers of pictures are another start's.
    return;
  }
  page.session = session;
  page.state = state;
  const waiting = new Set(page.outbox.filter((o) => o.path !== "/api/undo").map((o) => o.body.picture));
  const shown = page.card?.picture;
  page.ahead = next.filter((c) => c.picture !== shown && !waiting.has(c.picture));
  page.ahead.slice(0, 3).forEach((c) => fetchAhead(c));
  const anew = next.find((c) => c.picture === shown);
  if (anew && page.at >= page.trail.length) page.card = anew;
  show();
}

async function refresh() {
  if (page.outbox.length > 0 || !page.state) return;
  const { sent } = page;
  try {
    const answer = await ask(`/api/state?${me()}&count=4`);
    if (page.sent !== sent || !page.state) return; // It tells of a time before a click.
    alarm("");
    take(answer);
    if (!page.card) advance();
  } catch (error) {
    alarm(error.status ? error.message : "graft label does not answer; is it still running?");
  }
}

/* Pictures */

const address = (picture) => `/picture/${picture}?s=${page.session}`;

function fetchAhead(card) {
  if (page.fetched.has(card.picture)) return;
  const image = new Image();
  image.src = address(card.picture);
  page.fetched.set(card.picture, image);
  while (page.fetched.size > 12) page.fetched.delete(page.fetched.keys().next().value);
}

function advance() {
  const card = page.ahead.shift() ?? null;
  page.card = card;
  page.at = page.trail.length;
  show();
}

// What was shown stays reachable by the arrows.
function leave() {
  if (!page.card || page.at < page.trail.length) return;
  page.trail = page.trail.filter((p) => p !== page.card.picture);
  page.trail.push(page.card.picture);
  page.at = page.trail.length;
}

async function goTo(picture) {
  if (picture === null || picture === undefined) return;
  try {
    const card = await ask(`/api/card/${picture}?${me()}`);
    const place = page.trail.indexOf(picture);
    page.ahead = page.ahead.filter((c) => c.picture !== picture);
    if (page.card && page.at >= page.trail.length && page.card.picture !== picture) page.ahead.unshift(page.card);
    page.at = place < 0 ? page.trail.length : place;
    page.card = card;
    show();
  } catch (error) {
    toast(error.message);
  }
}

function back() {
  const place = Math.min(page.at, page.trail.length) - 1;
  if (place >= 0) goTo(page.trail[place]);
}

function forth() {
  if (page.at + 1 < page.trail.length) goTo(page.trail[page.at + 1]);
  else if (page.at < page.trail.length) advance();
  else if (page.ahead.length > 0) { leave(); advance(); }
}

/* Clicks */

function act(path, extra, told) {
  const card = page.card;
  if (!card || $("palette").open) return;
  leave();
  const sent = send(path, { picture: card.picture, seen: card.seen, ...extra });
  toast(`${told} · ${name(card.file)}`, true);
  if (page.at < page.trail.length && page.trail[page.at + 1] !== undefined) goTo(page.trail[page.at + 1]);
  else advance();
  return sent;
}

const label = (text) => $("picture").hidden ? toast("nothing is shown to label") : act("/api/label", { label: text }, text);
const unusable = () => act("/api/label", { label: null }, "not usable");
const skip = () => act("/api/skip", {}, "skipped");
const undo = () => send("/api/undo", {});
const name = (file) => file.split("/").pop();

async function addAndLabel(text) {
  const card = page.card;
  try {
    take(await ask("/api/class", { who: page.who, name: text }));
    if (card && page.card?.picture === card.picture) label(text);
  } catch (error) {
    toast(error.message);
  }
}

function conflict() {
  const all = page.state?.conflicts ?? [];
  if (all.length === 0) return toast("no conflicts");
  goTo(all[(all.indexOf(page.card?.picture) + 1) % all.length]);
}

/* Showing */

const percent = (p) => `${Math.round(100 * p)} %`;
const verdict = (v) => (v === "unusable" ? "not usable" : v.label);

function show() {
  const { state, card } = page;
  if (!state) return;
  const done = state.settled + state.unusable;
  $("folder").textContent = state.folder;
  document.title = `${done}/${state.pictures} ${state.folder}`;
  $("bar").style.width = `${(100 * done) / state.pictures}%`;
  $("progress").setAttribute("aria-valuenow", Math.round((100 * done) / state.pictures));
  $("count").textContent = `${done} of ${state.pictures}`;
  const clashes = state.conflicts.length;
  $("conflicts").hidden = clashes === 0;
  $("conflicts").textContent = `${clashes} conflict${clashes === 1 ? "" : "s"}`;
  $("who").textContent = page.who;
  $("where").textContent = `Labels: ${state.manifest}`;
  if (state.warning) alarm(state.warning);
  showPicture(card);
  showAnswer(card);
  showConflict(card);
  showClasses(card);
  showNeighbours(card);
  $("back").disabled = Math.min(page.at, page.trail.length) === 0;
  $("forth").disabled = page.at >= page.trail.length && page.ahead.length === 0;
  for (const button of document.querySelectorAll("[data-do]")) button.disabled = !card && button.dataset.do !== "undo";
}

let shown = null;
function showPicture(card) {
  const image = $("picture");
  if (!card) {
    shown = null;
    image.hidden = true;
    $("file").textContent = $("origin").textContent = "";
    const { pictures, settled, unusable, conflicts } = page.state;
    const left = pictures - settled - unusable;
    const others = "Somebody else has them before them; they come here if they are left lying.";
    note(...(page.outbox.length > 0 ? ["Storing…", ""] : left === 0
      ? ["All done", `${settled} labelled, ${unusable} not usable. graft train reads ${page.state.manifest}`]
      : [`${left} left`, conflicts.length > 0 ? "Press c for those on which people differ." : others]));
    return;
  }
  $("file").textContent = card.file;
  const { origin } = card;
  $("origin").textContent = origin
    ? [origin.device, origin.site, origin.unix_ms > 0 && new Date(origin.unix_ms).toLocaleString()].filter(Boolean).join(" · ")
    : "";
  const key = `${page.session}/${card.picture}`;
  if (shown === key) return;
  shown = key;
  note();
  $("figure").classList.remove("near");
  image.hidden = false;
  image.src = address(card.picture);
}

$("picture").addEventListener("error", async () => {
  const { card } = page;
  if (!card) return;
  $("picture").hidden = true;
  const response = await fetch(address(card.picture)).catch(() => null);
  if (page.card !== card) return;
  if (!response) {
    shown = null; // The next answer of the server shows it again.
    return note("Not here yet", "graft label does not answer; the picture comes when it does.");
  }
  const reason = response.ok ? "" : (await response.json().catch(() => ({}))).error;
  note("Cannot be shown", `${reason ?? ""} Press x if it is of no use.`);
});

function note(head = "", text = "") {
  $("note").hidden = !head;
  $("note").replaceChildren(one("b", { textContent: head }), text);
}

function guess(label, probability, kind) {
  const fill = one("i");
  fill.style.width = `${100 * probability}%`;
  return one("div", { className: `guess ${kind}` }, one("b", { textContent: label }),
    one("span", { textContent: percent(probability) }), one("div", { className: "meter" }, fill));
}

function showAnswer(card) {
  const box = $("answer");
  $("alike").hidden = box.hidden = !card;
  if (!card) return;
  const { answer } = card;
  const by = card.origin ? `${card.origin.device} says` : "The model says";
  if (!answer) return box.replaceChildren(one("h2", { textContent: "No answer" }), one("p", { className: "said", textContent: "No device said anything of this picture." }));
  if (page.isBlind && card.standing === "open") {
    return box.replaceChildren(one("h2", { textContent: by }), one("p", { className: "said", textContent: "hidden; b shows it" }));
  }
  const parts = [one("h2", { textContent: by }), guess(answer.label, answer.probability, "first")];
  if (answer.second) parts.push(guess(...answer.second, "second"));
  if (answer.reason) parts.push(one("p", { className: "reason", textContent: answer.reason }));
  const agree = one("button", { className: "agree" }, one("kbd", { textContent: "Enter" }), " agree");
  agree.addEventListener("click", () => label(answer.label));
  box.replaceChildren(...parts, agree);
}

function showConflict(card) {
  const box = $("conflict");
  const others = card?.standing === "settled" ? card.votes.filter((v) => v.who !== page.who) : [];
  box.hidden = !card || (card.standing !== "conflict" && others.length === 0 && !card.held_by);
  if (box.hidden) return;
  const list = one("ul", {}, ...card.votes.map((v) => one("li", {}, `${v.who}: `, one("b", { textContent: verdict(v.verdict) }))));
  const [head, hint] = card.standing === "conflict" ? ["Conflict", "The next click settles it."]
    : others.length > 0 ? ["Labelled", "Another label makes a conflict."]
    : ["Held", `${card.held_by} has this picture before them.`];
  box.replaceChildren(one("h2", { textContent: head }), list, one("p", { textContent: hint }));
}

function showClasses(card) {
  const voted = new Set(card?.votes.map((v) => v.verdict.label));
  const mark = card?.standing === "settled" ? "chosen" : "claimed";
  const said = page.isBlind ? undefined : card?.answer?.label;
  const buttons = page.state.classes.map(({ name, pictures }, i) => {
    const kind = voted.has(name) ? mark : name === said ? "said-so" : "";
    const button = one("button", { className: kind, disabled: !card, title: name },
      one(i < 9 ? "kbd" : "span", { textContent: i < 9 ? i + 1 : "" }), one("span", { className: "label", textContent: name }),
      one("span", { className: "n", textContent: pictures || "" }));
    button.addEventListener("click", () => label(name));
    return button;
  });
  if (buttons.length === 0) buttons.push(one("p", { className: "said", textContent: "No classes yet: n adds one." }));
  $("classes").replaceChildren(...buttons);
}

function showNeighbours(card) {
  const items = (card?.neighbours ?? []).map((n) => {
    const text = n.verdict ? verdict(n.verdict) : page.isBlind ? "" : n.answer ? `${n.answer}?` : "";
    const image = one("img", { src: `/small/${n.picture}?s=${page.session}`, alt: "", loading: "lazy" });
    const title = `${n.file}, alike to ${percent(n.similarity)}`;
    const button = one("button", { className: n.verdict ? "labelled" : "", title }, image, one("span", { textContent: text || "not labelled" }));
    button.addEventListener("click", () => goTo(n.picture));
    return button;
  });
  const key = `${page.session}${card?.picture}${page.isBlind}${JSON.stringify(card?.neighbours)}`;
  if ($("strip").dataset.key === key) return;
  $("strip").dataset.key = key;
  $("strip").replaceChildren(...(items.length > 0 ? items : [one("p", { textContent: "Nothing to compare with." })]));
}

let toastTimer = 0;
function toast(text, canUndo = false) {
  clearTimeout(toastTimer);
  const parts = [one("span", { textContent: text })];
  if (canUndo) {
    const button = one("button", { textContent: "undo (u)" });
    button.addEventListener("click", undo);
    parts.push(button);
  }
  $("toast").replaceChildren(...parts);
  $("toast").hidden = false;
  toastTimer = setTimeout(() => { $("toast").hidden = true; }, 4000);
}

function alarm(text) {
  $("alarm").hidden = !text;
  $("alarm").textContent = text;
}

/* The palette: finding a class, or adding one */

const palette = { mode: "find", chosen: 0, found: [] };

function openPalette(mode) {
  if (!page.card) return;
  Object.assign(palette, { mode, chosen: 0 });
  $("query").value = "";
  $("query").placeholder = mode === "find" ? "find a class" : "name of the new class";
  listFound();
  $("palette").showModal();
}

function listFound() {
  const text = $("query").value.trim();
  const names = page.state.classes.map((c) => c.name);
  const low = text.toLowerCase();
  const starts = (n) => Number(!n.toLowerCase().startsWith(low));
  const hits = names.filter((n) => n.toLowerCase().includes(low)).sort((a, b) => starts(a) - starts(b));
  palette.found = palette.mode === "find" ? hits.map((n) => ({ name: n })) : [];
  if (text && !names.includes(text)) palette.found.push({ name: text, isNew: true });
  else if (text && palette.mode === "add") palette.found = [{ name: text }];
  palette.chosen = Math.max(0, Math.min(palette.chosen, palette.found.length - 1));
  $("found").replaceChildren(...palette.found.map((f, i) => {
    const item = one("li", { role: "option", ariaSelected: String(i === palette.chosen) }, f.isNew ? `add “${f.name}”` : f.name);
    item.addEventListener("click", () => { palette.chosen = i; usePalette(); });
    return item;
  }));
  $("hint").textContent = palette.found.length > 0 ? "Enter labels this picture, Esc goes back" : "Type a name";
}

function usePalette() {
  const chosen = palette.found[palette.chosen];
  $("palette").close();
  if (!chosen) return;
  if (chosen.isNew) addAndLabel(chosen.name);
  else label(chosen.name);
}

$("query").addEventListener("input", () => { palette.chosen = 0; listFound(); });
$("palette").addEventListener("keydown", (event) => {
  // The palette is closed by the time the key would reach the page, for which Enter agrees with the device.
  event.stopPropagation();
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step && palette.found.length > 0) {
    palette.chosen = (palette.chosen + step + palette.found.length) % palette.found.length;
    listFound();
  } else if (event.key === "Enter") usePalette();
  else return;
  event.preventDefault();
});

/* Keys */

const doing = { find: () => openPalette("find"), add: () => openPalette("add"), skip, undo, unusable };
const keys = {
  s: skip, u: undo, x: unusable, c: conflict, w: askName,
  "/": doing.find, n: doing.add, ArrowLeft: back, ArrowRight: forth,
  "?": () => $("help").showModal(),
  Enter: () => page.card?.answer && !(page.isBlind && page.card.standing === "open") && label(page.card.answer.label),
  z: () => $("figure").classList.toggle("near"),
  b: () => { page.isBlind = !page.isBlind; store("blind", page.isBlind ? "yes" : "no"); show(); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  if ($("help").open && event.key === "?") { event.preventDefault(); return $("help").close(); }
  if (document.querySelector("dialog[open]")) return;
  // A held key must not label a hundred pictures; a button that has the focus keeps Enter and space.
  if (event.repeat && !event.key.startsWith("Arrow")) return;
  if (event.key === "Enter" && document.activeElement?.tagName === "BUTTON") return;
  const digit = /^[1-9]$/.test(event.key) && page.state?.classes[event.key - 1];
  const does = digit ? () => label(digit.name) : keys[event.key];
  if (!does) return;
  event.preventDefault();
  does();
});

for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => doing[button.dataset.do]());
document.addEventListener("click", (event) => event.target.closest("button")?.blur());
$("back").addEventListener("click", back);
$("forth").addEventListener("click", forth);
$("conflicts").addEventListener("click", conflict);
$("who").addEventListener("click", askName);
$("ask").addEventListener("click", keys["?"]);
$("help").addEventListener("click", (event) => event.target === $("help") && $("help").close());
$("figure").addEventListener("click", keys.z);
$("figure").addEventListener("pointermove", (event) => {
  const box = $("figure").getBoundingClientRect();
  const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  $("picture").style.transformOrigin = `${100 * x}% ${100 * y}%`;
});

/* Who */

function askName() {
  $("newname").value = page.who;
  $("name").showModal();
  $("newname").select();
}

$("name").addEventListener("close", () => {
  const chosen = $("newname").value.trim();
  if (!chosen) return page.who ? undefined : askName();
  if (chosen === page.who) return page.state ? undefined : begin();
  if (page.outbox.length > 0) return toast("clicks of the other name are being stored; try again");
  page.who = chosen;
  store("who", chosen);
  history.replaceState(null, "", "/");
  begin();
});

function begin() {
  Object.assign(page, { card: null, ahead: [], trail: [], at: 0, state: null });
  ask(`/api/state?${me()}&count=4`).then((answer) => {
    alarm("");
    take(answer);
    page.trail = answer.state.trail;
    advance();
  }).catch((error) => {
    alarm(error.status ? error.message : "graft label does not answer; is it still running?");
    if (!error.status) setTimeout(begin, 2000);
  });
}

addEventListener("beforeunload", (event) => { if (page.outbox.length > 0) event.preventDefault(); });
setInterval(() => { if (!document.hidden) refresh(); }, 4000);
if (page.who) begin();
else askName();
