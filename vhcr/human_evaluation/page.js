"use strict";
// One pair at a time. Everything is text that the server sent, put in as text.

const MIN_LOOK = 400; // ms before a new pair takes a vote: nobody reads faster, but a double click comes faster
const LOOK_AGAIN = 15000; // ms, while others hold the last pairs
const byId = (id) => document.getElementById(id);
const choices = [...document.querySelectorAll("[data-choice]")];
const NAMES = { left: "left", right: "right", tie: "about the same" };
const KEYS = { ArrowLeft: "left", 1: "left", t: "tie", 2: "tie", ArrowRight: "right", 3: "right" };

let state = null; // as the server sent it last: the open pair, pairs voted on, how many are left
let shown = null; // the pair on the screen: the open one, or an earlier one
let timer = 0;

function setState(name) {
  document.body.dataset.state = name;
}

function say(text, trouble = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("trouble", trouble);
}

async function ask(path, body) {
  const options = body
    ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }
    : {};
  const response = await fetch(path, { cache: "no-store", credentials: "omit", ...options });
  if (!response.ok && response.status !== 409) throw new Error(String(response.status));
  return response.json();
}

function fill(list, turns, first) {
  list.replaceChildren(
    ...turns.map((text, i) => {
      const item = document.createElement("li");
      item.textContent = text || "(says nothing)";
      item.classList.toggle("silent", !text);
      item.classList.toggle("other", (first + i) % 2 === 1);
      return item;
    }),
  );
}

function show(pair) {
  clearTimeout(timer);
  shown = pair;
  const { voted, left, rater } = state;
  byId("bar").max = Math.max(1, voted.length + left);
  byId("bar").value = voted.length;
  byId("count").textContent = `${voted.length} voted, ${left} to go`;
  byId("rater").textContent = `You are voting as ${rater}.`;
  byId("pair").hidden = !pair;
  byId("end").hidden = Boolean(pair);
  const place = pair ? voted.indexOf(pair.item) : -1;
  byId("back").hidden = (place < 0 ? voted.length : place) === 0;
  byId("on").hidden = !pair || place < 0;
  if (!pair) {
    end(left);
    return;
  }
  fill(byId("context"), pair.context, 0);
  fill(byId("left-reply"), pair.left, pair.context.length);
  fill(byId("right-reply"), pair.right, pair.context.length);
  for (const button of choices) button.setAttribute("aria-pressed", String(button.dataset.choice === pair.choice));
  if (pair.choice) say(`You chose ${NAMES[pair.choice]}. Choose again to change it.`);
  byId("conversation").focus({ preventScroll: true });
  window.scrollTo(0, 0);
  setState("looking");
  timer = setTimeout(() => setState("ready"), MIN_LOOK);
}

function end(left) {
  setState(left ? "waiting" : "done");
  byId("end-title").textContent = left ? "Nothing to do just now" : "That was the last one. Thank you!";
  byId("end-text").textContent = left
    ? "Others are looking at the pairs that are left. If they leave one, it appears here by itself."
    : "You have voted on every pair that needed your vote. You can still go back and change one.";
  byId("end-title").focus({ preventScroll: true });
  if (left) timer = setTimeout(() => refresh(), LOOK_AGAIN);
}

async function refresh() {
  try {
    const first = state === null;
    state = await ask("pair");
    if (first && state.voted.length === 0) document.querySelector("details").open = true;
    show(state.pair);
  } catch (error) {
    unreachable(error, "The next pair cannot be fetched.");
    timer = setTimeout(refresh, LOOK_AGAIN);
  }
}

function unreachable(error, what) {
  const why = error.message === "404" ? "This link is no longer known." : "The server does not answer.";
  say(`${what} ${why}`, true);
}

async function vote(choice) {
  if (document.body.dataset.state !== "ready") return;
  const pair = shown;
  setState("sending");
  try {
    const answer = await ask("votes", { item: pair.item, choice, revision: pair.revision });
    state = answer.next;
    if (answer.status === "stored" || answer.choice === choice) say(`Stored: ${NAMES[choice]}.`);
    else if (answer.status === "already")
      say(`You had voted on that pair already (${NAMES[answer.choice]}), perhaps in another window. That vote stands.`, true);
    else say("Others have given that pair all its votes meanwhile. Yours was not needed.", true);
    show(state.pair);
  } catch (error) {
    setState("ready");
    unreachable(error, "Your vote is not stored yet; please choose again.");
  }
}

async function back() {
  if (!["looking", "ready", "waiting", "done"].includes(document.body.dataset.state)) return;
  const place = shown ? state.voted.indexOf(shown.item) : -1;
  const before = (place < 0 ? state.voted.length : place) - 1;
  if (before < 0) return;
  try {
    show(await ask(`pairs/${state.voted[before]}`));
  } catch (error) {
    unreachable(error, "That pair cannot be fetched.");
  }
}

function on() {
  if (byId("on").hidden) return;
  say("");
  refresh();
}

for (const button of choices) {
  // The second click of a double click falls on the next pair: it is nobody's vote.
  button.addEventListener("click", (event) => event.detail < 2 && vote(button.dataset.choice));
}
byId("back").addEventListener("click", back);
byId("on").addEventListener("click", on);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const act = KEYS[key] ? () => vote(KEYS[key]) : { b: back, n: on }[key];
  if (!act) return;
  event.preventDefault();
  if (!event.repeat) act(); // a key held down is one vote
});
// Another window may have gone on meanwhile.
document.addEventListener("visibilitychange", async () => {
  if (document.visibilityState !== "visible" || !["ready", "waiting"].includes(document.body.dataset.state)) return;
  if (shown && state.voted.includes(shown.item)) return;
  try {
    const now = await ask("pair");
    if (document.body.dataset.state === "sending") return;
    const same = now.pair && shown && now.pair.item === shown.item;
    state = now;
    if (!same) show(now.pair);
  } catch {
    // It will be said when there is something to send.
  }
});
window.addEventListener("pageshow", (event) => event.persisted && refresh());
refresh();
