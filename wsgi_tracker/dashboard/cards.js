// The summary's cards. Totals come from counters, at once; then what visits ended with; changes
// against the time before, and sessions, are read from visits, and come last.

import { ask } from "./api.js";
import { hasBefore, time } from "./buckets.js";
import { byId, element } from "./dom.js";
import { change, duration, number, percent, rate, seconds } from "./format.js";
import { Panel } from "./panel.js";

const OUTCOMES = "status,latency";
/** Each card: what it says of a summary, what below that, and whether more of it is worse. */
const CARDS = {
  hits: { of: (s) => s.total_hits, say: number },
  users: { of: (s) => s.total_unique_users, say: number },
  sessions: { of: (s) => s.sessions?.count, say: number, below: aboutSessions },
  endpoints: { of: (s) => s.total_endpoints, say: number },
  errors: { of: (s) => s.error_rate, say: percent, below: aboutErrors, isBad: true },
  time: { of: (s) => s.duration_us?.p50, say: duration, below: aboutTime, isBad: true },
};

const panel = new Panel("summary");

export const cards = {
  turn() {
    panel.turn();
    for (const name of Object.keys(CARDS)) card(name).className = "card old";
  },

  /** Show what counters know. */
  totals: (view, signal) =>
    panel.run(signal, async () => {
      const { body } = await ask("summary", { ...time(view), ...view.filters }, signal);
      fill(body, ["hits", "users", "endpoints"]);
      const daily = body.unique_users_basis === "daily" ? "of each day, added up" : "";
      part("users", "below").textContent = daily;
      byId("tracking").hidden = body.tracking_active;
    }),

  outcomes: (view, signal) =>
    panel.run(signal, async () => {
      const asked = { ...time(view), ...view.filters, include: OUTCOMES };
      fill((await ask("summary", asked, signal)).body, ["errors", "time"]);
    }),

  comparison: (view, signal) =>
    panel.run(signal, async () => {
      const names = ["hits", "users", "endpoints", "errors", "time"];
      if (!hasBefore(view)) return forget([...names, "sessions"]);
      for (const name of names) card(name).classList.add("comparing");
      const asked = { ...time(view), ...view.filters, include: OUTCOMES, compare: "previous" };
      const { body } = await ask("summary", asked, signal);
      fill(body, names);
      compare(body, names);
    }).finally(() => document.querySelectorAll(".comparing").forEach(calm)),

  sessions: (view, signal) =>
    panel.run(signal, async () => {
      card("sessions").classList.add("comparing");
      const compared = hasBefore(view) ? { compare: "previous" } : {};
      const asked = { ...time(view), ...view.filters, include: "sessions", ...compared };
      const { body } = await ask("summary", asked, signal);
      fill(body, ["sessions"]);
      if (body.previous) compare(body, ["sessions"]);
    }).finally(() => calm(card("sessions"))),
};

function calm(node) {
  node.classList.remove("comparing");
}

function card(name) {
  return byId(`card-${name}`);
}

function part(name, className) {
  return card(name).querySelector(`.${className}`);
}

function fill(summary, names) {
  for (const name of names) {
    const { of, say, below } = CARDS[name];
    part(name, "value").textContent = say(of(summary));
    if (below) part(name, "below").textContent = below(summary);
    card(name).classList.remove("old");
  }
}

function compare(summary, names) {
  for (const name of names) {
    const { of, say, isBad } = CARDS[name];
    const before = of(summary.previous);
    const { text, direction } = change(of(summary), before);
    const arrow = { 1: "▲", [-1]: "▼", 0: "" }[direction];
    const worse = isBad && direction > 0 ? "worse" : isBad && direction < 0 ? "better" : "";
    part(name, "change").replaceChildren(
      element("span", { class: worse, title: `${say(before)} in the time before` }, `${arrow} ${text}`),
    );
  }
}

/** Show no change where nothing lies before. */
function forget(names) {
  for (const name of names) part(name, "change").textContent = "";
}

function aboutSessions({ sessions }) {
  if (!sessions.count) return "";
  const pages = rate(sessions.average_visits);
  return `${pages} visits, ${seconds(sessions.average_duration_seconds)} each`;
}

function aboutErrors({ status }) {
  return `${number(status["5xx"])} of 5xx, ${number(status["4xx"])} of 4xx`;
}

function aboutTime({ duration_us }) {
  return `99 % within ${duration(duration_us.p99)}`;
}
