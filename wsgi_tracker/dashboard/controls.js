// What chooses the view: period, range, time zone, class, and the filters as chips.

import { addDays, GRANULARITIES, isRange, PERIODS } from "./buckets.js";
import { button, byId, choose, element, offer } from "./dom.js";
import { bound, knownZone } from "./format.js";
import { addFilter, FILTERS, go, label, removeFilter } from "./state.js";
import { resetZoom } from "./trend.js";

const CLASSES = "search ai_training ai_assistant feed monitor preview scanner crawler tool empty unknown";
const periods = byId("periods");
const range = byId("range");
const [from, to] = [byId("range-from"), byId("range-to")];
const [zone, kind, granularity] = [byId("zone"), byId("class"), byId("granularity")];

/** Show what the view is. */
export function showControls(view) {
  for (const input of periods.querySelectorAll("input")) {
    input.checked = !isRange(view) && input.value === view.period;
    // On a phone it may be out of sight.
    if (input.checked) periods.scrollLeft = input.parentElement.offsetLeft - 80;
  }
  range.classList.toggle("chosen", isRange(view));
  byId("range-name").textContent = isRange(view) ? nameOfRange(view) : "Range";
  from.value = view.start.slice(0, 10);
  to.value = view.end.length === 10 ? addDays(view.end, -1) : view.end.slice(0, 10);
  byId("unzoom").hidden = !isRange(view);
  byId("unzoom").textContent = `Back to ${PERIODS[view.period].label}`;
  choose(zone, view.tz);
  choose(kind, view.filters.class ?? "");
  choose(granularity, view.granularity);
  byId("chips").replaceChildren(...Object.entries(view.filters).map(chip));
  byId("clear").hidden = !Object.keys(view.filters).length;
  const search = byId("search");
  if (search !== document.activeElement) search.value = view.search;
}

function nameOfRange(view) {
  const own = knownZone(view.tz);
  const start = view.start ? bound(view.start, own) : "the beginning";
  if (!view.end) return `${start} to now`;
  const end = view.end.length === 10 ? addDays(view.end, -1) : view.end;
  return start === bound(end, own) ? start : `${start} to ${bound(end, own)}`;
}

function chip([name, value]) {
  const text = value === "" ? "none" : value;
  return element(
    "li",
    {},
    element("span", {}, `${label(name)}: `, element("b", {}, text)),
    button("×", () => removeFilter(name), { "aria-label": `Remove ${label(name)} ${text}` }),
  );
}

/** Make the choices, and listen to them; once. */
export function makeControls() {
  periods.append(...Object.entries(PERIODS).map(([value, { label }]) => radio(value, label)));
  periods.addEventListener("change", (event) => {
    go({ period: event.target.value, start: "", end: "", granularity: "" });
  });
  offer(zone, zones());
  zone.addEventListener("change", () => go({ tz: zone.value }));
  const classes = CLASSES.split(" ").map((name) => [name, name.replace("_", " ")]);
  offer(kind, [["", "Everybody"], ["human", "People"], ["-human", "Programs"], ...classes]);
  kind.addEventListener("change", () => (kind.value ? addFilter("class", kind.value) : removeFilter("class")));
  const named = GRANULARITIES.map((name) => [name, `by ${name}`]);
  offer(granularity, [["", "auto"], ...named]);
  granularity.addEventListener("change", () => go({ granularity: granularity.value }));
  byId("unzoom").addEventListener("click", resetZoom);
  byId("clear").addEventListener("click", () => go({ filters: {} }));
  byId("filters").addEventListener("click", keepFocus);
  makeRange();
  makeFilter();
}

/** What was clicked there is gone: go on where other filters are, or can be added. */
function keepFocus({ target }) {
  if (!target.matches("button")) return;
  (byId("chips").querySelector("button") ?? byId("filter").firstElementChild).focus();
}

function radio(value, label) {
  return element(
    "label",
    {},
    element("input", { type: "radio", name: "period", value, class: "hidden" }),
    element("span", {}, label),
  );
}

function zones() {
  const own = knownZone();
  const names = new Map([["", "Database's zone"], ["UTC", "UTC"], [own, `${own} (yours)`]]);
  for (const name of Intl.supportedValuesOf("timeZone")) if (!names.has(name)) names.set(name, name);
  return [...names];
}

function makeRange() {
  const form = range.querySelector("form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const end = to.value && addDays(to.value, 1); // the last day is meant to be in it
    const isWrong = Boolean(from.value && end && end <= from.value);
    to.setCustomValidity(isWrong ? "This is before the first day." : "");
    if (!form.reportValidity() || !(from.value || end)) return;
    range.open = false;
    go({ start: from.value, end, granularity: "" });
  });
  form.addEventListener("input", () => to.setCustomValidity(""));
}

function makeFilter() {
  const details = byId("filter");
  const form = details.querySelector("form");
  const [name, value] = [byId("filter-name"), byId("filter-value")];
  offer(name, FILTERS.map((each) => [each, label(each)]));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    details.open = false;
    addFilter(name.value, value.value);
    value.value = "";
  });
  closeOutside(details);
  closeOutside(range);
}

/** Close what is open when something else is clicked, or with Escape. */
function closeOutside(details) {
  document.addEventListener("pointerdown", (event) => {
    if (!details.contains(event.target)) details.open = false;
  });
  details.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !details.open) return;
    details.open = false;
    details.querySelector("summary").focus();
  });
}

/** Whether two views differ in what is asked for, and not only in how it is shown. */
export function asksSame(one, other) {
  return question(one) === question(other);
}

function question({ period, start, end, tz, granularity: each, filters }) {
  return JSON.stringify([period, start, end, tz, each, Object.entries(filters)]);
}
