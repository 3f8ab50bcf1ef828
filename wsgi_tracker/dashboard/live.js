// Who is there just now: asked for every few seconds, while the page can be seen.

import { ask } from "./api.js";
import { element } from "./dom.js";
import { clock, knownZone, number, rate, several } from "./format.js";
import { Panel } from "./panel.js";
import { every } from "./health.js";

const POLL_SECONDS = 5;
const MINUTES = 30;

const panel = new Panel("live");

export const live = {
  turn: () => panel.turn(),

  /** Ask until another view is shown. */
  poll: (view, signal) =>
    every(POLL_SECONDS, signal, () =>
      panel.run(signal, async () => {
        const { body } = await ask("live", { minutes: MINUTES, ...view.filters }, signal);
        show(view, body);
      }),
    ),
};

function show(view, now) {
  const zone = knownZone(view.tz);
  const most = Math.max(1, ...now.minutes.map((minute) => minute.hits));
  const bars = now.minutes.map((minute) => {
    const title = `${clock(minute.start, zone)}: ${several(minute.hits, "hit")}`;
    const bar = element("li", { title }, element("span", { class: "hidden" }, title));
    bar.style.setProperty("--share", minute.hits / most);
    return bar;
  });
  panel.show([
    element(
      "div",
      { class: "now" },
      figure(number(now.active_users), "users in the last 5 minutes"),
      figure(rate(now.requests_per_second), "visits a second"),
    ),
    element("ol", { class: "minutes", "aria-label": "Hits of each of the last minutes" }, ...bars),
    element("p", { class: "muted ends" }, element("span", {}, `${MINUTES} minutes ago`), "now"),
  ]);
}

function figure(value, text) {
  return element("p", {}, element("strong", {}, value), element("span", {}, text));
}
