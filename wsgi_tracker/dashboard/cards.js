// The summary's cards. Totals come from counters, at once; then what visits ended with; changes
// against the time before, and sessions, are read from visits, and come last.

import { ask, askSlowly } from "./api.js";
import { hasBefore, time } from "./buckets.js";
import { byId, element } from "./dom.js";
import { change, duration, number, percent, rate, seconds } from "./format.js";
import { Panel } from "./panel.js";

const OUTCOMES = "status,latency";
/** Each card: what it says of a summary, what below that, and whether more of it is worse. */
const CARDS = {
  hits: { title: "Hits", of: (s) => s.total_hits, say: number },
  users: { title: "Unique users", of: (s) => s.total_unique_users, say: number },
  sessions: { title: "Sessions", of: (s) => s.sessions?.count, say: number, below: aboutSessions },
  endpoints: { title: "Endpoints", of: (s) => s.total_endpoints, say: number },
  errors: { title: "Error rate", of: (s) => s.error_rate, say: percent, below: aboutErrors, isBad: true },
  time: { title: "Median time", of: (s) => s.duration_us?.p50, say: duration, below: aboutTime, isBad: true },
};

const panel = new Panel("summary");
panel.keeps = true;
panel.body.append(...Object.entries(CARDS).map(([name, { title }]) => make(name, title)));

export const cards = {
  turn() {
    panel.turn();
    for (const name of Object.keys(CARDS)) {
      card(name).className = "card old";
      part(name, "change").textContent = "";
    }
  },

  /** Show what counters know. */
  totals: (view, signal) =>
    panel.run(signal, async () => {
      const { body } = await ask("summary", { ...time(view), ...view.filters }, signal);
      fill(body, ["hits", "users", "endpoints"]);
      const daily = body.unique_users_basis === "daily" ? "of each day, added up" : "";
      part("users", "below").textContent = daily;
    }),

  outcomes: (view, signal) => load(["errors", "time"], view, signal, ask, { include: OUTCOMES }),

  async comparison(view, signal) {
    const names = ["hits", "users", "endpoints", "errors", "time"];
    if (hasBefore(view)) {
      await load(names, view, signal, askSlowly, { include: OUTCOMES, compare: "previous" });
    }
  },

  sessions(view, signal) {
    const compared = hasBefore(view) ? { compare: "previous" } : {};
    return load(["sessions"], view, signal, askSlowly, { include: "sessions", ...compared });
  },
};

/** Ask for a summary with more in it, and show of it what these cards tell. */
function load(names, view, signal, how, more) {
  const mark = (isAtWork) => names.forEach((name) => card(name).classList.toggle("working", isAtWork));
  const work = async () => {
    mark(true);
    try {
      const { body } = await how("summary", { ...time(view), ...view.filters, ...more }, signal);
      fill(body, names);
      if (body.previous) compare(body, names);
    } catch (error) {
      if (error.code !== "query_timeout") throw error;
      for (const name of names) part(name, "change").textContent = "takes too long";
    }
  };
  return panel.run(signal, work).finally(() => mark(false));
}

function make(name, title) {
  const value = element("span", { class: "value" }, "–");
  return element(
    "div",
    { class: "card old", id: `card-${name}` },
    element("dt", {}, title),
    element("dd", {}, value, " ", element("span", { class: "change" })),
    element("dd", { class: "below" }),
  );
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
    const arrow = ["▼", "", "▲"][direction + 1];
    const worse = isBad && direction > 0 ? "worse" : isBad && direction < 0 ? "better" : "";
    part(name, "change").replaceChildren(
      element("span", { class: worse, title: `${say(before)} in the time before` }, `${arrow} ${text}`),
    );
  }
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
  return duration_us.p99 === null ? "" : `99% within ${duration(duration_us.p99)}`;
}
