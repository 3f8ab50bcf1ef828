// The page: it asks for a token if the API wants one, and loads what the view shows. First what
// counters answer, then how visits ended, then what is read from visits: comparisons, breakdowns.

import { takeTokenFromAddress, token } from "./api.js";
import { breakdowns } from "./breakdowns.js";
import { isOpen } from "./buckets.js";
import { cards } from "./cards.js";
import { asksSame, makeControls, showControls } from "./controls.js";
import { byId } from "./dom.js";
import { endpoints } from "./endpoints.js";
import { clock, knownZone } from "./format.js";
import { watchHealth } from "./health.js";
import { live } from "./live.js";
import { needs } from "./panel.js";
import { onView, view as current } from "./state.js";
import { trend } from "./trend.js";
import { showUser } from "./user.js";
import { visits } from "./visits.js";

const REFRESH_SECONDS = 60;
const ROUNDS_TO_ALL = 5; // every so many refreshes, what is read from visits is, too

let shown = null;
let controller = new AbortController();
let visitsController = new AbortController();
let isAsking = false; // for a token

/** Show a view: of what differs from the one before, only that is asked for. */
function show(view) {
  if (isAsking) return;
  showControls(view);
  visits.choose(view);
  const before = shown;
  shown = view;
  if (!before || !asksSame(before, view)) {
    restart(view);
  } else {
    if (before.sort !== view.sort) endpoints.sort(view, controller.signal);
    if (before.search !== view.search) endpoints.show(view);
    if (before.visits_path !== view.visits_path || before.visits_status !== view.visits_status) {
      restartVisits(view);
    }
  }
  showUser(view);
}

async function restart(view) {
  controller.abort();
  controller = new AbortController();
  const { signal } = controller;
  for (const each of [cards, trend, endpoints, live, breakdowns]) each.turn();
  watchHealth(signal);
  live.poll(view, signal);
  restartVisits(view);
  await load(view, signal, true);
  if (!signal.aborted) keepFresh(view, signal);
}

function restartVisits(view) {
  visitsController.abort();
  visitsController = new AbortController();
  visits.turn();
  return visits.load(view, visitsController.signal);
}

/** Load all panels, the quick ones first; `all` takes those that are read from visits along. */
async function load(view, signal, all) {
  const quick = [cards.totals, trend.load, endpoints.load, cards.outcomes, endpoints.outcomes];
  await Promise.all(quick.map((ask) => ask(view, signal)));
  byId("updated").textContent = `Updated ${clock(new Date(), knownZone(view.tz))}`;
  if (!all || signal.aborted) return;
  endpoints.sparklines(view, signal, trend.length());
  const slow = [cards.comparison, trend.comparison, breakdowns.load, cards.sessions];
  await Promise.all(slow.map((ask) => ask(view, signal, endpoints.hits())));
}

/** Load again every minute while the page can be seen, if visits may have come. */
function keepFresh(view, signal) {
  if (!isOpen(view)) return;
  let round = 0;
  const timer = setInterval(() => {
    if (document.hidden) return;
    round += 1;
    load(view, signal, round % ROUNDS_TO_ALL === 0);
    visits.load(view, visitsController.signal);
  }, REFRESH_SECONDS * 1000);
  signal.addEventListener("abort", () => clearInterval(timer));
}

/** Ask for a token, and say why. */
function askForToken(message) {
  if (isAsking) return;
  isAsking = true;
  controller.abort();
  visitsController.abort();
  showUser({ user: "" }); // or nobody could reach the form below its dialog
  const wasWrong = token.get() !== null;
  token.forget();
  // Where none is set at all, the API says how to set one.
  const isUnset = message.includes("none is set");
  const wrong = wasWrong ? "This token was not accepted. " : "";
  byId("token-reason").textContent = wrong + (isUnset ? `${message}.` : "");
  document.body.classList.add("asking");
  const input = byId("token");
  input.value = "";
  input.focus();
}

function takeToken(event) {
  event.preventDefault();
  token.set(byId("token").value.trim());
  start();
}

function start() {
  isAsking = false;
  shown = null;
  document.body.classList.remove("asking");
  byId("forget").hidden = token.get() === null;
  show(current());
}

/** Begin anew without the token, and without all that was shown with it. */
function forget() {
  token.forget();
  location.reload();
}

needs.addEventListener("token", (event) => askForToken(event.detail));
byId("token-form").addEventListener("submit", takeToken);
byId("forget").addEventListener("click", forget);
addEventListener("hashchange", () => takeTokenFromAddress() && start());
byId("host").textContent = location.host;
document.title = `Visits of ${location.host}`;
onView(show);
takeTokenFromAddress();
makeControls();
start();
