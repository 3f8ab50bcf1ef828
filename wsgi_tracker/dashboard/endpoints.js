// The table of endpoints, and of the same rows the slowest and those that fail most.
//
// Hits and users come from counters, at once; how visits ended and how long they took is added to
// the rows when it is there, and a small trend to those rows that can be seen.

import { ask, askSlowly } from "./api.js";
import { MANY_HITS, time, timeOfTrends } from "./buckets.js";
import { sparkline } from "./chart.js";
import { button, byId, onTyping } from "./dom.js";
import { duration, number, percent } from "./format.js";
import { Panel } from "./panel.js";
import { addFilter, exactly, go } from "./state.js";
import { figure, sorted, table } from "./table.js";

const MOST_ROWS = 1000; // as many as the API gives on one page
const EXTREMES = 50;
const OUTCOMES = "status,latency";

const panel = new Panel("endpoints");
const slowest = new Panel("slowest");
const failing = new Panel("failing");
const search = byId("search");

let rows = [];
let total = 0;
let isWhole = true; // whether these are all rows, and not those of one page
let trends = new Map();
let observer = null;

const ENDPOINT = {
  name: "endpoint",
  label: "Endpoint",
  value: (row) => row.endpoint,
  cell: (row) =>
    button(row.endpoint, () => addFilter("endpoint", exactly(row.endpoint)), {
      class: "value",
      title: row.endpoint,
      "data-key": key(row),
    }),
};
const METHOD = { name: "method", label: "Method", isShort: true, value: (row) => row.method };
const HITS = figure("hit_count", "Hits");
const USERS = figure("unique_users", "Users");
const ERRORS = figure("error_rate", "Errors", percent);
const P50 = figure("p50", "p50", duration, (row) => row.duration_us?.p50);
const P99 = figure("p99", "p99", duration, (row) => row.duration_us?.p99);
const TREND = {
  name: "trend",
  label: "Trend",
  isFixed: true,
  value: () => "",
  cell: (row) => trends.get(key(row)) ?? "",
};
const COLUMNS = [ENDPOINT, METHOD, HITS, USERS, ERRORS, P50, P99, TREND];

export const endpoints = {
  turn() {
    for (const each of [panel, slowest, failing]) each.turn();
    observer?.disconnect();
    observer = null;
    trends = new Map();
  },

  load: (view, signal) => panel.run(signal, async () => take(view, await page(view, signal))),

  /** Load rows with all their figures; three panels show them, and any asks again. */
  outcomes(view, signal) {
    const load = shared(() => page(view, signal, { include: OUTCOMES, sort: view.sort }));
    const extreme = (place, column) =>
      place.run(signal, async () => extremes(place, column, await load(), view, signal));
    return Promise.all([
      panel.run(signal, async () => take(view, await load())),
      extreme(slowest, P99),
      extreme(failing, ERRORS),
    ]);
  },

  /** Watch rows, and draw a trend in those that come into sight. */
  sparklines(view, signal, length) {
    if (endpoints.hits() > MANY_HITS) return; // they are read from visits
    const seen = (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (isIntersecting) sparklineOf(target.dataset.row, view, signal, length);
      }
    };
    observer = new IntersectionObserver(seen, { root: panel.body });
    watch();
  },

  hits: () => rows.reduce((sum, row) => sum + row.hit_count, 0),

  show: showEndpoints,

  /** Sort the rows; where there are more than a page, the API says which come first. */
  sort: (view, signal) => (isWhole ? showEndpoints(view) : endpoints.outcomes(view, signal)),
};

function key(row) {
  return `${row.method} ${row.endpoint}`;
}

function page(view, signal, more) {
  return ask("stats", { ...time(view), ...view.filters, limit: MOST_ROWS, ...more }, signal);
}

/** Return a function that asks once, and again only if that failed. */
function shared(ask) {
  let asked = null;
  return () => (asked ??= ask().catch((error) => {
    asked = null;
    throw error;
  }));
}

function take(view, { body, next }) {
  // Figures that were not asked for stay what they were, when only time went on.
  const known = new Map(panel.isOld ? [] : rows.map((row) => [key(row), row]));
  rows = body.stats.map((row) => ({ ...known.get(key(row)), ...row }));
  isWhole = !next;
  total = body.total_endpoints;
  showEndpoints(view);
}

function showEndpoints(view) {
  const text = view.search.toLowerCase();
  const found = rows.filter((row) => key(row).toLowerCase().includes(text));
  const shown = sorted(found, COLUMNS, view.sort);
  panel.say(count(shown.length));
  if (!shown.length) {
    panel.empty(rows.length ? "No endpoint has this in its name." : "No visits in this time.");
    return;
  }
  const made = table({
    caption: "Endpoints",
    columns: COLUMNS,
    rows: shown,
    sort: view.sort,
    onSort: (sort) => go({ sort }),
    attributes: (row) => ({ "data-row": key(row) }),
  });
  panel.show(made, { columns: COLUMNS.filter((column) => column !== TREND), rows: shown });
  if (observer) watch();
}

function count(shown) {
  if (!isWhole) return `${number(MOST_ROWS)} rows of ${number(total)} endpoints`;
  return shown < rows.length ? `${number(shown)} of ${number(rows.length)}` : number(shown);
}

function watch() {
  observer.disconnect();
  for (const row of panel.body.querySelectorAll("tr[data-row]")) observer.observe(row);
}

async function sparklineOf(name, view, signal, length) {
  if (trends.has(name)) return;
  trends.set(name, "");
  const row = rows.find((each) => key(each) === name);
  if (!row) return;
  const only = { endpoint: exactly(row.endpoint), method: row.method };
  try {
    const asked = { ...timeOfTrends(view), ...view.filters, ...only };
    const { body } = await askSlowly("trends", asked, signal);
    const values = body.trends.map((bucket) => bucket.hits).reverse();
    while (values.length < length) values.unshift(0); // of all of the time, before its first visit
    trends.set(name, sparkline(values, `Hits: ${values.join(", ")}`));
  } catch {
    trends.delete(name); // it is an ornament: the next sight asks again
    return;
  }
  const line = [...panel.body.querySelectorAll("tr")].find((each) => each.dataset.row === name);
  line?.lastElementChild.replaceChildren(trends.get(name));
}

/** Show the rows with the greatest of one figure; those without any are none. */
async function extremes(place, column, { body, next }, view, signal) {
  const sort = `-${column.name}`;
  const more = { include: OUTCOMES, sort, limit: EXTREMES };
  const first = next ? (await page(view, signal, more)).body.stats : sorted(body.stats, COLUMNS, sort);
  const found = first.slice(0, EXTREMES).filter((row) => column.value(row) > 0);
  const columns = [ENDPOINT, METHOD, column, HITS];
  if (!found.length) {
    place.empty(column === ERRORS ? "Nothing failed: no answer was 5xx." : "No durations are known.");
    return;
  }
  const caption = place.root.dataset.title;
  place.show(table({ caption, columns, rows: found }), { columns, rows: found });
}

onTyping(search, (text) => go({ search: text }, { replace: true }));
