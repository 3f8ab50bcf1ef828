// One user's path through the site, in a dialog that is part of the view: it can be shared, and the
// back button closes it.

import { ask } from "./api.js";
import { button, byId, element } from "./dom.js";
import { clock, knownZone, longMoment, number, rate, seconds, several } from "./format.js";
import { Panel } from "./panel.js";
import { exactly, go, view as current } from "./state.js";
import { statusMark } from "./visits.js";

const dialog = byId("user");
const panel = new Panel("user");
let shown = "";
let controller = new AbortController();

/** Open or close the dialog, as the view says. */
export function showUser(view) {
  if (view.user === shown) return;
  shown = view.user;
  controller.abort();
  if (!shown) {
    dialog.close();
    return;
  }
  controller = new AbortController();
  const { signal } = controller;
  panel.turn();
  panel.body.replaceChildren();
  byId("user-hash").textContent = shown;
  if (!dialog.open) dialog.showModal();
  load(view, {}, [], signal);
}

function load(view, page, sessions, signal) {
  return panel.run(signal, async () => {
    const zone = view.tz ? { tz: view.tz } : {};
    const report = `users/${encodeURIComponent(view.user)}`;
    const { body, next } = await ask(report, { ...zone, ...page }, signal);
    const all = [...sessions, ...body.path];
    const older = () => load(view, Object.fromEntries(new URLSearchParams(next)), all, signal);
    const more = next && button("Older", older, { class: "older" });
    panel.show([totals(body), frequent(body), ...all.map(session), more].filter(Boolean));
  });
}

function totals(user) {
  const zone = knownZone(current().tz);
  const facts = {
    Visits: number(user.visits),
    Sessions: number(user.sessions.count),
    "Visits a session": rate(user.sessions.average_visits),
    "A session's length": seconds(user.sessions.average_duration_seconds),
    First: longMoment(user.first_visit, zone),
    Last: longMoment(user.last_visit, zone),
  };
  const pairs = Object.entries(facts).map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value)),
  );
  return element("dl", { class: "facts" }, ...pairs);
}

function frequent(user) {
  const most = user.endpoints.slice(0, 5);
  return element(
    "p",
    { class: "muted" },
    "Most often: ",
    most.map((row) => `${row.endpoint} (${number(row.hit_count)})`).join(", "),
  );
}

function session(found) {
  const zone = knownZone(current().tz);
  const cut = found.cut ? ", goes on on another page" : "";
  const length = found.visits > 1 ? `, ${seconds(found.duration_seconds)}` : "";
  const steps = found.steps.map((step) => stepOf(step, zone));
  const { referer, user_agent } = found.steps[0];
  return element(
    "section",
    { class: "session" },
    element(
      "h3",
      {},
      longMoment(found.start, zone),
      element("small", {}, ` ${several(found.visits, "visit")}${length}${cut}`),
    ),
    referer && element("p", { class: "muted" }, "From ", referer),
    element("ol", {}, ...steps),
    user_agent && element("p", { class: "muted" }, user_agent),
  );
}

function stepOf(step, zone) {
  return element(
    "li",
    {},
    element("time", { datetime: step.timestamp }, clock(step.timestamp, zone)),
    statusMark(step),
    element("span", { class: "mono" }, step.method),
    element("span", { class: "path", title: step.path }, step.path),
  );
}

function close() {
  go({ user: "" });
}

dialog.addEventListener("cancel", (event) => {
  event.preventDefault(); // the view closes it
  close();
});
dialog.addEventListener("click", (event) => event.target === dialog && close());
byId("user-close").addEventListener("click", close);
byId("user-filter").addEventListener("click", () =>
  go({ user: "", filters: { ...current().filters, user_hash: exactly(current().user) } }),
);
