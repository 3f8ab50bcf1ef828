// Lists of the values that most visits have: referers, browsers and so on, and dead links. A value
// that is clicked becomes a filter.

import { ask } from "./api.js";
import { time } from "./buckets.js";
import { element } from "./dom.js";
import { number } from "./format.js";
import { Panel } from "./panel.js";
import { addFilter, exactly, go } from "./state.js";

const LIMIT = 50;
const DEAD = { status: "404" };

/** Each list: what it asks for by, how it calls what has none, and what it looks at alone. */
const LISTS = [
  { id: "statuses", by: "status", none: "None was sent" },
  { id: "referers", by: "referer_host", none: "Direct, or not told", detail: "referer" },
  { id: "browsers", by: "browser", none: "Not a browser" },
  { id: "systems", by: "system", none: "Not known" },
  { id: "classes", by: "class", none: "Not known" },
  { id: "hosts", by: "host", none: "None was named" },
  { id: "exceptions", by: "error", none: "None", only: { error: "-" }, nothing: "No request ended with an error." },
  { id: "dead-paths", by: "path", none: "None", only: DEAD, nothing: "No request was answered 404." },
  {
    id: "dead-referers",
    by: "referer",
    none: "Direct, or not told",
    only: DEAD,
    nothing: "No page leads to a 404.",
  },
];
const panels = new Map(LISTS.map(({ id }) => [id, new Panel(id)]));

export const breakdowns = {
  turn() {
    for (const panel of panels.values()) panel.turn();
  },

  load: (view, signal) =>
    Promise.all(LISTS.map((list) => panels.get(list.id).run(signal, () => show(list, view, signal)))),
};

async function show(list, view, signal) {
  const panel = panels.get(list.id);
  // Whose pages they are is known when one host is asked for: then, which pages.
  const by = list.detail && view.filters[list.by] ? list.detail : list.by;
  // `error=-` are all that have one; a filter that was chosen says more.
  const filters = list.only === DEAD ? { ...view.filters, ...DEAD } : { ...list.only, ...view.filters };
  const { body } = await ask("breakdown", { by, limit: LIMIT, ...time(view), ...filters }, signal);
  const rows = body.breakdown;
  panel.say(rows.length < body.total_values ? `${number(rows.length)} of ${number(body.total_values)}` : "");
  if (!rows.length) {
    panel.empty(list.nothing ?? "No visits in this time.");
    return;
  }
  const columns = [
    { name: by, value: (row) => row.value },
    { name: "hits", value: (row) => row.hits },
    { name: "unique_users", value: (row) => row.unique_users },
  ];
  panel.show(drawn(list, by, view, rows), { columns, rows });
}

function drawn(list, by, view, rows) {
  const title = panels.get(list.id).root.querySelector("h2").textContent;
  const most = rows[0].hits;
  const heads = [title, "Hits", "Users"].map((text, index) =>
    element("th", { scope: "col", class: index ? "number" : null }, text),
  );
  return element(
    "table",
    { class: "bars" },
    element("caption", { class: "hidden" }, title),
    element("thead", {}, element("tr", {}, ...heads)),
    element("tbody", {}, ...rows.map((row) => line(list, by, view, row, most))),
  );
}

function line(list, by, view, row, most) {
  const text = row.value ?? list.none;
  const choose = () => {
    if (list.only === DEAD) go({ filters: { ...view.filters, ...DEAD, [by]: exactly(row.value) } });
    else addFilter(by, exactly(row.value));
  };
  const made = element(
    "tr",
    {},
    element(
      "td",
      {},
      element(
        "button",
        {
          type: "button",
          class: row.value === null ? "value none" : "value",
          title: text,
          "data-key": `value ${row.value}`,
          click: choose,
        },
        text,
      ),
    ),
    element("td", { class: "number" }, number(row.hits)),
    element("td", { class: "number" }, number(row.unique_users)),
  );
  made.style.setProperty("--share", row.hits / most);
  return made;
}
