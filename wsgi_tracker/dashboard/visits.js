// The newest visits, with filters of their own besides the view's, and older ones on demand.

import { ask } from "./api.js";
import { time } from "./buckets.js";
import { button, byId, element, offer, onTyping } from "./dom.js";
import { duration, knownZone, moment } from "./format.js";
import { Panel } from "./panel.js";
import { go } from "./state.js";
import { figure, table } from "./table.js";

const INCLUDED = "path,status,error,host,duration,bytes";
const LIMIT = 50;

const panel = new Panel("visits");
const path = byId("visits-path");
const status = byId("visits-status");

export const visits = {
  turn: () => panel.turn(),

  load: (view, signal) =>
    panel.run(signal, async () => {
      const { body, next } = await ask("visits", question(view), signal);
      show(view, body.visits, next, signal);
    }),

  /** Show what its own filters are. */
  choose(view) {
    if (path !== document.activeElement) path.value = view.visits_path;
    status.value = view.visits_status;
  },
};

function question(view) {
  const own = {};
  if (view.visits_path) own.path = `*${view.visits_path.replace(/[*?[]/g, "[$&]")}*`;
  if (view.visits_status) own.status = view.visits_status;
  return { limit: LIMIT, include: INCLUDED, ...time(view), ...view.filters, ...own };
}

function show(view, rows, next, signal) {
  if (!rows.length) {
    panel.empty("No visits like these in this time.");
    return;
  }
  const columns = columnsOf(knownZone(view.tz));
  const made = table({ caption: "Recent visits, the newest first", columns, rows });
  const older = next && olderButton(view, rows, next, signal);
  panel.show([made, older].filter(Boolean), { columns, rows });
}

function olderButton(view, rows, next, signal) {
  const more = () =>
    panel.run(signal, async () => {
      const { body, next: further } = await ask("visits", new URLSearchParams(next), signal);
      show(view, [...rows, ...body.visits], further, signal);
    });
  return button("Older visits", more, { class: "older", "data-key": "older" });
}

function columnsOf(zone) {
  const text = (name, label) => ({
    name,
    label,
    value: (row) => row[name],
    cell: (row) => row[name] && element("span", { class: "value", title: row[name] }, row[name]),
  });
  const short = (name, label) => ({ ...text(name, label), isShort: true });
  return [
    { ...short("timestamp", "Time"), cell: (row) => moment(row.timestamp, zone) },
    { ...short("user_hash", "User"), cell: (row) => userButton(row.user_hash) },
    short("method", "Method"),
    text("path", "Path"),
    { ...short("status", "Status"), cell: statusMark },
    figure("duration_us", "Took", duration),
    short("error", "Error"),
    text("referer", "Referer"),
    text("user_agent", "User agent"),
    text("host", "Host"),
    short("ip_address", "Address"),
  ];
}

/** Show a status, and by its colour which kind it is. */
export function statusMark(row) {
  const kind = row.status ? Math.floor(row.status / 100) : 0;
  return element("span", { class: `mark of${kind}` }, row.status ?? "–");
}

function userButton(hash) {
  if (!hash) return "–";
  return button(hash.slice(0, 8), () => go({ user: hash }), { class: "value mono", title: hash });
}

offer(status, [["", "Any status"], ...["2xx", "3xx", "4xx", "5xx"].map((kind) => [kind, kind])]);
onTyping(path, (text) => go({ visits_path: text }, { replace: true }));
status.addEventListener("change", () => go({ visits_status: status.value }));
