// The view: which time, which visits, what is open. It is the query string of the page, nothing
// else, so that it can be shared, and that the browser's buttons go through it.

import { GRANULARITIES, PERIODS } from "./buckets.js";

/** What visits can be filtered by, in the words of the API. */
export const FILTERS = (
  "endpoint method status class path host referer referer_host browser system user_agent error " +
  "ip_address user_hash"
).split(" ");
const DEFAULTS = {
  period: "week",
  start: "",
  end: "",
  tz: "",
  granularity: "",
  sort: "-hit_count",
  search: "",
  visits_path: "",
  visits_status: "",
  user: "",
};
let tell = () => {};

/** Return the view of the address; what it does not say, or says wrongly, is as by default. */
export function view() {
  const given = new URLSearchParams(location.search);
  const found = { filters: {} };
  for (const name of Object.keys(DEFAULTS)) found[name] = given.get(name) ?? DEFAULTS[name];
  for (const name of FILTERS) {
    if (given.has(name)) found.filters[name] = given.get(name);
  }
  if (!Object.hasOwn(PERIODS, found.period)) found.period = DEFAULTS.period;
  if (!GRANULARITIES.includes(found.granularity)) found.granularity = "";
  return found;
}

/** Go to the view that differs in these; `replace` is for what nobody would go back to. */
export function go(changes, { replace = false } = {}) {
  const next = { ...view(), ...changes };
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(DEFAULTS)) {
    if (next[name] !== value) query.set(name, next[name]);
  }
  for (const [name, value] of Object.entries(next.filters)) query.set(name, value);
  const text = query.toString();
  const address = location.pathname + (text && `?${text}`);
  if (address === location.pathname + location.search) return;
  history[replace ? "replaceState" : "pushState"](null, "", address);
  tell();
}

/** Return how a filter is called on the page. */
export function label(name) {
  const text = name.replace("ip_", "IP ").replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export function addFilter(name, value) {
  go({ filters: { ...view().filters, [name]: value } });
}

export function removeFilter(name) {
  const { [name]: _, ...rest } = view().filters;
  go({ filters: rest });
}

/** Return the value of a filter that lets through exactly a value of a report; null is none. */
export function exactly(value) {
  if (value === null) return "";
  const text = String(value).replace(/[*?[]/g, "[$&]");
  return text.startsWith("-") ? `[-]${text.slice(1)}` : text;
}

/** Let `show` be told of every other view. */
export function onView(show) {
  tell = () => show(view());
  addEventListener("popstate", tell);
}
