// Lists of the values that most visits have: referers, browsers and so on, and dead links. A value
// that is clicked becomes a filter.

import { askSlowly } from "./api.js";
import { MANY_HITS, time } from "./buckets.js";
import { button } from "./dom.js";
import { number } from "./format.js";
import { Panel } from "./panel.js";
import { exactly, go, label } from "./state.js";
import { figure, table } from "./table.js";

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
  { id: "exceptions", by: "error", only: { error: "-" }, nothing: "No request ended with an error." },
  { id: "dead-paths", by: "path", only: DEAD, nothing: "No request was answered 404." },
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

  /** Load all lists; of too many visits, only those that somebody wants. */
  load: (view, signal, hits) =>
    Promise.all(
      LISTS.map((list) => {
        const panel = panels.get(list.id);
        const work = () => show(list, view, signal);
        if (hits <= MANY_HITS) return panel.run(signal, work);
        return panel.offer(`It takes long to count this in ${number(hits)} visits.`, signal, work);
      }),
    ),
};

async function show(list, view, signal) {
  const panel = panels.get(list.id);
  // Whose pages they are is known when one host is asked for: then, which pages.
  const by = list.detail && view.filters[list.by] ? list.detail : list.by;
  // `error=-` are all that have one; a filter that was chosen says more.
  const filters = list.only === DEAD ? { ...view.filters, ...DEAD } : { ...list.only, ...view.filters };
  const { body } = await askSlowly("breakdown", { by, limit: LIMIT, ...time(view), ...filters }, signal);
  const rows = body.breakdown;
  panel.say(rows.length < body.total_values ? `${number(rows.length)} of ${number(body.total_values)}` : "");
  if (!rows.length) {
    panel.empty(list.nothing ?? "No visits in this time.");
    return;
  }
  const columns = [
    { name: by, label: label(by), value: (row) => row.value, cell: (row) => name(list, by, view, row) },
    figure("hits", "Hits"),
    figure("unique_users", "Users"),
  ];
  const caption = panel.root.dataset.title;
  const made = table({ caption, columns, rows, className: "bars" });
  made.querySelectorAll("tbody tr").forEach((line, index) => {
    line.style.setProperty("--share", rows[index].hits / rows[0].hits);
  });
  panel.show(made, { columns, rows });
}

function name(list, by, view, { value }) {
  const dead = list.only === DEAD ? DEAD : {};
  const choose = () => go({ filters: { ...view.filters, ...dead, [by]: exactly(value) } });
  const text = value ?? list.none;
  const className = value === null ? "value none" : "value";
  return button(text, choose, { class: className, title: text, "data-key": `value ${value}` });
}
