// The page around the map: what a point is, topics, generating from z_conv, and talking.
import { PointMap } from "./map.js";

const $ = (id) => document.getElementById(id);
// Colours that differ in hue and in lightness, seen on light and on dark paper.
const HUES = ["#3f74d8", "#e0762b", "#2f9e62", "#c93f6b", "#8a63d2", "#b08a15", "#1fa2b8", "#d25fc0", "#7a8f2a", "#a3543c", "#5d6b80", "#ef9aa8", "#61b3f0", "#8fce7c"];
const RAMP = ["#3b3a8f", "#2f6fae", "#259a96", "#74b94c", "#e3c22f"].map(rgb);
const NONE = "#8d939b";
const NAMES = { kl: "KL of z (nats)", nll_per_word: "nats a word", turns: "turns", turn: "turn", words: "words" };

let about, level, columns, current = null, ends = {}, mapped = 0;
const talks = [];

function rgb(hex) { return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)); }
const packed = ([r, g, b]) => r | (g << 8) | (b << 16);
function ramp(share) {
  const at = Math.min(0.9999, Math.max(0, share)) * (RAMP.length - 1), low = Math.floor(at);
  return RAMP[low].map((value, i) => Math.round(value + (RAMP[low + 1][i] - value) * (at - low)));
}
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
function say(text, trouble = false) { $("status").textContent = text; $("status").classList.toggle("trouble", trouble); }
async function get(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}
const post = (path, body) => fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
const attempt = (work) => (...given) => work(...given).catch((error) => say(error.message, true));

// --- the map ---

const map = new PointMap($("canvas"), {
  onSelect: attempt(choose),
  onLasso: attempt(lassoed),
  onHover: hover,
});

async function show() {
  const asked = ++mapped, projection = $("projection").value;
  level = $("level").value;
  say(projection === "tsne" ? "Computing t-SNE; a thousand points take seconds, ten thousand a minute …" : "Loading …");
  const found = await get(`map/${level}?projection=${projection}`);
  if (asked !== mapped) return;
  columns = found.columns;
  map.setPoints(found.x, found.y);
  const before = $("colour").value;
  $("colour").replaceChildren(...Object.keys(columns).map((name) => element("option", { value: name }, NAMES[name] || name)));
  const labels = Object.keys(columns).filter((name) => name.endsWith("(label)"));
  $("colour").value = columns[before] ? before : columns.topic ? "topic" : labels[0] || "kl";
  paint();
  say(`${found.x.length.toLocaleString("en")} ${level}s`);
}

function paint() {
  const column = columns[$("colour").value], legend = [];
  map.shown = null;
  if (column.codes) {
    const hue = column.names.map((_, code) => HUES[code % HUES.length]);
    const ids = hue.map((hex) => packed(rgb(hex)));
    column.codes.forEach((code, place) => { map.colours[place] = code < 0 ? packed(rgb(NONE)) : ids[code]; });
    column.names.forEach((name, code) => legend.push(
      element("button", { type: "button", "aria-pressed": "false", onclick: (event) => only(event.currentTarget, (place) => column.codes[place] === code) },
        swatch([hue[code]]), name)));
  } else {
    const sorted = Float64Array.from(column.values).sort();
    const low = sorted[Math.floor(0.02 * (sorted.length - 1))], high = sorted[Math.ceil(0.98 * (sorted.length - 1))];
    column.values.forEach((value, place) => { map.colours[place] = packed(ramp((value - low) / (high - low || 1))); });
    legend.push(element("span", { class: "small" }, `${low} to ${high}`), swatch(RAMP.map((colour) => `rgb(${colour})`), "ramp"));
  }
  $("legend").replaceChildren(...legend);
  map.redraw();
}

function swatch(colours, name = "") {
  const made = element("canvas", { width: colours.length > 1 ? 144 : 12, height: 12, class: name, "aria-hidden": "true" });
  const context = made.getContext("2d"), paper = context.createLinearGradient(0, 0, made.width, 0);
  colours.forEach((colour, i) => paper.addColorStop(colours.length > 1 ? i / (colours.length - 1) : 0, colour));
  context.fillStyle = paper; context.fillRect(0, 0, made.width, 12);
  return made;
}

function light(places) {
  map.shown = places && new Uint8Array(map.x.length);
  for (const place of places || []) map.shown[place] = 1;
  map.redraw();
}

function only(button, wanted) {
  const on = button.getAttribute("aria-pressed") !== "true";
  for (const other of $("legend").querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-pressed", on);
  light(on ? [...map.x.keys()].filter(wanted) : null);
}

let hovered = -1;
async function hover(place, event) {
  if (place === hovered) return;
  hovered = place;
  $("hover").hidden = true;
  if (place < 0) return;
  const [text] = await get(`texts/${level}?at=${place}`).catch(() => [""]);
  if (hovered !== place || !text) return;
  const box = $("frame").getBoundingClientRect();
  $("hover").textContent = text;
  $("hover").hidden = false;
  $("hover").style.left = `${Math.min(event.clientX - box.left + 14, box.width - 250)}px`;
  $("hover").style.top = `${Math.min(event.clientY - box.top + 14, box.height - 60)}px`;
}

async function lassoed(places) {
  if (!places.length) { light(null); say("No point lies in there."); return; }
  light(places);
  const answer = await post(`selection/${level}`, { places });
  if (!answer.ok) throw new Error(await answer.text());
  const found = await answer.json();
  const texts = await get(`texts/${level}?at=${places.slice(0, 50).join(",")}`);
  $("topics").replaceChildren(
    element("h2", {}, `${found.count.toLocaleString("en")} ${level}s in the lasso`),
    element("p", {}, element("b", {}, "Words: "), found.words.join(", ")),
    ...Object.entries(columns).filter(([, column]) => column.codes).map(([name, column]) => element("p", { class: "small" }, `${name}: ${shares(column, places)}`)),
    list(texts.map((text, i) => [places[i], text])),
    element("div", { class: "row" }, element("button", { type: "button", onclick: () => { light(null); topics(); } }, "Back to the topics")));
  open("topics");
  say(`${found.count.toLocaleString("en")} points chosen`);
}

function shares(column, places) {
  const counts = new Map();
  for (const place of places) counts.set(column.codes[place], (counts.get(column.codes[place]) || 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]).slice(0, 4).map(([code, count]) => `${code < 0 ? "none" : column.names[code]} ${Math.round(100 * count / places.length)} %`).join(", ");
}

const list = (rows) => element("ul", { class: "list" }, ...rows.map(([place, text]) =>
  element("li", {}, element("button", { type: "button", onclick: () => attempt(choose)(place, true) }, text))));

async function search() {
  const wanted = $("search").value.trim();
  if (!wanted) { light(null); say(""); return; }
  const found = await get(`search/${level}?q=${encodeURIComponent(wanted)}`);
  light(found);
  say(`${found.length.toLocaleString("en")} ${level}s hold “${wanted}”`);
}

// --- a point ---

async function choose(place, centre = false) {
  map.select(place, { centre });
  open("point");
  const asked = (choose.asked = (choose.asked || 0) + 1);
  const found = await get(`point/${level}/${place}`);
  if (asked !== choose.asked) return;
  current = { place, ...found };
  const known = Object.entries(columns).map(([name, column]) => {
    const value = column.codes ? column.names[column.codes[place]] : column.values[place];
    return value === undefined ? "" : `${NAMES[name] || name}: ${value}`;
  }).filter(Boolean).join(" · ");
  const which = element("select", { onchange: () => words(which.value) },
    element("option", { value: "" }, "as it was written"), element("option", { value: "with_z" }, "nats with z"),
    element("option", { value: "without_z" }, "nats without z"), element("option", { value: "gain" }, "what z gains"));
  const has = about.levels.includes("conversation");
  $("point").replaceChildren(
    element("h2", {}, found.id), element("p", { class: "soft small" }, known),
    element("div", { class: "row" }, element("label", {}, "Words", which),
      ...(has ? ["a", "b"].map((end) => element("button", { type: "button", id: `use-${end}`, onclick: () => use(end) }, `Use as ${end.toUpperCase()}`)) : [])),
    element("ol", { class: "turns", id: "conversation" }),
    element("p", { class: "soft small", id: "words-note" }),
    element("h2", {}, "Nearest"), list(found.neighbours.map((near) => [near.place, `${near.distance.toFixed(2)}  ${near.text}`])));
  words("");
  say(`${found.id} chosen`);
}

function words(which) {
  const first = current.turns[0].speaker;
  $("conversation").replaceChildren(...current.turns.map((turn, number) => element("li",
    { class: `${(turn.speaker === null ? number % 2 : turn.speaker !== first) ? "other" : ""} ${number === current.turn ? "here" : ""}` },
    ...(turn.speaker === null ? [] : [element("small", {}, turn.speaker)]),
    ...(which ? turn.words.map((word, i) => {
      const value = which === "gain" ? turn.without_z[i] - turn.with_z[i] : turn[which][i];
      const made = element("span", { class: "word", title: `${turn.with_z[i]} nats with z, ${turn.without_z[i]} without` }, word === "<eos>" ? "∎" : word);
      const strength = Math.round(Math.min(1, Math.abs(value) / 6) * 75);
      made.style.background = `color-mix(in srgb, ${value < 0 ? "#3f74d8" : "#e0762b"} ${strength}%, transparent)`;
      return made;
    }).flatMap((made) => [made, " "]) : [turn.text]))));
  const total = (name) => current.turns.flatMap((turn) => turn[name]).reduce((a, b) => a + b, 0);
  $("words-note").textContent = which ? `−log p of each word; the stronger the colour, the more nats; ∎ is the end. In all ${total("with_z").toFixed(1)} nats with z from its posterior, ${total("without_z").toFixed(1)} with z from its prior.` : "";
}

function use(end) {
  ends[end] = current.conversation;
  $(`end-${end}`).textContent = `${current.id}: ${current.turns[0].text}`;
  if (level === "conversation") { map.marks = Object.values(ends); map.redraw(); }
  open("generate");
}

function topics() {
  $("topics").replaceChildren(...(about.topics.length ? about.topics.map((topic, number) => element("div", { class: "made" },
    element("p", {}, element("b", {}, topic.name), ` · ${topic.size} conversations`),
    element("p", { class: "soft small" }, topic.words.join(", ")),
    element("div", { class: "row" },
      element("button", { type: "button", onclick: () => light([...map.x.keys()].filter((place) => columns.topic.codes[place] === number)) }, "Show"),
      ...(level === "conversation" ? topic.typical.map((place, i) => element("button", { type: "button", "aria-label": `Typical conversation ${i + 1}`, onclick: () => attempt(choose)(place, true) }, i + 1)) : []))))
    : [element("p", {}, "This model has no z_conv, so its conversations have no topics.")]));
}

// --- speaking ---

function dials() {
  const values = Object.fromEntries(new FormData($("dials")));
  const numbers = ["max_words", "beam_size", "length_penalty", "temperature", "top_k", "top_p", "seed", "latent_scale"];
  return { ...values, ...Object.fromEntries(numbers.map((name) => [name, Number(values[name])])) };
}

function makeDials() {
  const choices = { strategy: ["greedy", "sample", "beam"], z_conv_from: ["posterior", "prior"], unknown_words: ["allow", "never"] };
  $("dials").replaceChildren(...Object.entries(about.dials).map(([name, value]) => element("label", {}, name.replaceAll("_", " "),
    choices[name] ? element("select", { name }, ...choices[name].map((choice) => element("option", { selected: choice === value }, choice)))
      : element("input", { name, type: "number", step: "any", value }))));
}

// Events of a reply, one JSON object a line, as they come.
async function speak(path, asked, onWords) {
  const answer = await post(path, asked);
  if (!answer.ok) throw new Error(await answer.text());
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", done = null;
  for (;;) {
    const { value, done: over } = await reader.read();
    if (over) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      if (event.error) throw new Error(event.error);
      if (event.words) for (const grown of event.words) onWords(...grown);
      if (event.done) done = event;
    }
  }
  if (!done) throw new Error("the reply was cut off");
  return done;
}

async function generate() {
  const values = Object.fromEntries(new FormData($("making"))), way = values.way;
  if (ends.a === undefined || (way !== "point" && ends.b === undefined)) throw new Error("Choose A, and for a path or a middle B, on the map first.");
  const rows = new Map();
  $("made").replaceChildren();
  const row = (number) => {
    if (!rows.has(number)) {
      rows.set(number, element("ol", { class: "turns" }));
      $("made").append(element("div", { class: "made" }, element("p", { class: "soft small" }, `${way === "path" ? "Point" : "Conversation"} ${number + 1}`), rows.get(number)));
    }
    return rows.get(number);
  };
  say("Speaking …");
  const done = await speak("generate", { way, start: ends.a, end: way === "point" ? null : ends.b, path: values.path, count: Number(values.count), turns: Number(values.turns), dials: dials() }, (number, turn, text) => put(row(number), turn, text));
  done.done.forEach((turns, number) => turns.forEach((text, turn) => put(row(number), turn, text)));
  say(`${done.done.length} conversations`);
}

function put(rows, turn, text) {
  while (rows.children.length <= turn) rows.append(element("li", { class: rows.children.length % 2 ? "other" : "" }));
  rows.children[turn].textContent = text;
}

class Talk {
  constructor(number, run) {
    Object.assign(this, { number, lines: [], held: null, tries: 0 });
    this.rows = element("ol", { class: "turns" });
    const lacks = run.lacks.length ? ` · has no ${run.lacks.join(" and no ")}` : "";
    this.note = element("p", { class: "soft small" }, run.architecture + lacks);
    $("talks").append(element("div", {}, element("b", {}, run.name), this.note, this.rows));
    this.lacks = run.lacks; this.begins = run.begins;
  }
  draw() { this.rows.replaceChildren(...this.lines.map((line) => element("li", { class: line.mine ? "other" : "" }, line.text, line.remark ? element("p", { class: "soft small" }, line.remark) : ""))); }
  clear() { this.lines = []; this.held = null; this.tries = 0; this.draw(); }
  async reply() {
    const hold = $("holding").elements.hold.value, context = this.lines.map((line) => line.text);
    const z_conv = hold === "anew" || this.lacks.includes("z_conv") ? null : this.held;
    const chosen = dials();
    const line = { mine: false, text: "…" };
    this.lines.push(line); this.draw();
    try {
      const done = await speak("talk", { run: this.number, context, z_conv, dials: { ...chosen, seed: chosen.seed + this.tries } }, (_, __, text) => { line.text = text; this.draw(); });
      line.text = done.done[0][0];
      line.remark = done.remarks.join(" ");
      if (hold === "held") this.held = done.z_conv; else this.held = null;
    } catch (error) {
      this.lines.pop(); this.draw(); throw error;
    }
    this.draw();
  }
}

const everyone = (work) => attempt(() => all(work));
const sayIt = attempt(async () => {
  const text = $("say").elements.text.value.trim();
  if (!text) return;
  for (const one of talks) { one.lines.push({ mine: true, text }); one.tries = 0; one.draw(); }
  $("say").elements.text.value = "";
  try { await all((one) => one.reply()); } catch (error) {
    for (const one of talks) { if (one.lines.at(-1)?.mine) one.lines.pop(); one.draw(); }
    $("say").elements.text.value = text;
    throw error;
  }
});
// All have answered, or failed, before anything is taken back.
async function all(work) {
  say("Speaking …");
  const failed = (await Promise.allSettled(talks.map(work))).find((one) => one.status === "rejected");
  if (failed) throw failed.reason;
  say("");
}

// --- all together ---

function open(name) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
  $("decoding").hidden = name !== "generate" && name !== "talk";
}

async function start() {
  about = await get("about");
  const run = about.runs[0];
  $("title").textContent = run.name;
  document.title = `${run.name} · vhcr explore`;
  $("about").textContent = `${run.architecture} · ${about.conversations.toLocaleString("en")} conversations of ${about.corpus} (${about.splits.join(", ")})`
    + (run.lacks.length ? ` · it has no ${run.lacks.join(" and no ")}: ${about.levels.includes("conversation") ? "" : "no map of conversations, no topics, nothing to generate from a point"}` : "");
  $("level").replaceChildren(...about.levels.map((name) => element("option", { value: name }, name === "conversation" ? "z_conv of conversations" : "z_utt of utterances")));
  $("tab-generate").hidden = !about.levels.includes("conversation");
  about.runs.forEach((one, number) => talks.push(new Talk(number, one)));
  $("begin").disabled = talks.some((one) => !one.begins);
  makeDials();
  for (const name of ["level", "projection"]) $(name).addEventListener("change", attempt(async () => { map.marks = []; await show(); topics(); }));
  $("colour").addEventListener("change", paint);
  let typing;
  $("search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(attempt(search), 200); });
  $("tools").addEventListener("submit", (event) => event.preventDefault());
  $("lasso").addEventListener("click", () => {
    map.lassoMode = !map.lassoMode;
    $("lasso").setAttribute("aria-pressed", map.lassoMode);
    $("canvas").classList.toggle("lasso", map.lassoMode);
  });
  $("in").addEventListener("click", () => map.zoom(1.4));
  $("out").addEventListener("click", () => map.zoom(1 / 1.4));
  $("fit").addEventListener("click", () => map.fit());
  for (const tab of document.querySelectorAll("[role=tab]")) {
    tab.addEventListener("click", () => open(tab.id.slice(4)));
    tab.addEventListener("keydown", (event) => {
      const tabs = [...document.querySelectorAll("[role=tab]:not([hidden])")], way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (way) { const next = tabs[(tabs.indexOf(tab) + way + tabs.length) % tabs.length]; next.focus(); next.click(); }
    });
  }
  $("making").addEventListener("submit", (event) => { event.preventDefault(); attempt(generate)(); });
  $("say").addEventListener("submit", (event) => { event.preventDefault(); sayIt(); });
  $("again").addEventListener("click", everyone(async (one) => {
    if (!one.lines.length || one.lines.at(-1).mine) return;
    const last = one.lines.pop();
    one.tries += 1; one.held = null;
    try { await one.reply(); } catch (error) { one.lines.push(last); one.draw(); throw error; }
  }));
  $("begin").addEventListener("click", everyone(async (one) => { if (!one.lines.length) await one.reply(); }));
  $("new").addEventListener("click", () => { talks.forEach((one) => one.clear()); say("A new talk"); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/INPUT|SELECT/.test(event.target.tagName)) { event.preventDefault(); $("search").focus(); }
    if (event.key === "Escape") { $("search").value = ""; light(null); map.select(-1); say(""); }
  });
  open("topics");
  await show();
  topics();
  document.body.dataset.ready = "yes";
}

window.vhcr = { map }; // for whoever wants to look closer: console, tests
attempt(start)();
