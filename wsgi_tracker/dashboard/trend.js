// The chart's panel: the trend, the time before behind it, and the same as a table.

import { ask, askSlowly } from "./api.js";
import { granularityOf, hasBefore, isOpen, isRange, rangeOf, timeOfTrends } from "./buckets.js";
import { Chart } from "./chart.js";
import { byId, element } from "./dom.js";
import { bucketName, bucketTick, knownZone, several } from "./format.js";
import { Panel } from "./panel.js";
import { go, view as current } from "./state.js";
import { figure, table } from "./table.js";

const PARTIAL = "incomplete";
const panel = new Panel("trend");
const place = element("div");
const chart = new Chart(place, { onZoom: zoom, onReset: resetZoom });
let buckets = [];

export const trend = {
  turn() {
    panel.turn();
    chart.showBefore(null); // it would be that of another time
    byId("nothing").hidden = true;
  },

  length: () => buckets.length,

  load: (view, signal) => load(view, signal, ask, {}),

  comparison(view, signal) {
    if (hasBefore(view)) return load(view, signal, askSlowly, { compare: "previous" });
  },
};

function load(view, signal, how, more) {
  return panel.run(signal, async () => {
    const { body } = await how("trends", { ...timeOfTrends(view), ...view.filters, ...more }, signal);
    buckets = body.trends.toReversed();
    draw(view);
    if (body.previous) chart.showBefore(body.previous.trends.toReversed());
  });
}

function draw(view) {
  const granularity = granularityOf(view);
  const zone = knownZone(view.tz);
  const name = (bucket) => bucketName(bucket.time_bucket, granularity, zone);
  const columns = [
    { name: "time_bucket", label: "Time", isShort: true, value: (row) => row.time_bucket, cell: name },
    figure("hits", "Hits"),
    figure("unique_users", "Unique users"),
    { name: "partial", label: "", isShort: true, value: (row) => String(row.partial), cell: said },
  ];
  const isEmpty = !buckets.some((bucket) => bucket.hits);
  byId("nothing").hidden = !isEmpty;
  chart.describe = (bucket, before) => describe(bucket, before, name);
  chart.tick = (bucket) => bucketTick(bucket.time_bucket, granularity, zone);
  panel.show(place, { columns, rows: buckets });
  chart.show(buckets);
  const rows = buckets.toReversed();
  byId("trend-table").replaceChildren(table({ caption: "The trend in figures", columns, rows }));
}

function zoom(first, last) {
  const granularity = granularityOf(current());
  const isToNow = last === buckets.length - 1 && isOpen(current()) && !current().end;
  const [from, to] = [buckets[first].time_bucket, buckets[last].time_bucket];
  go({ ...rangeOf(from, to, granularity, isToNow), granularity: "" });
}

/** Go back from a range to the period before. */
export function resetZoom() {
  if (isRange(current())) go({ start: "", end: "", granularity: "" });
}

function describe(bucket, before, name) {
  const lines = [
    ["hits", several(bucket.hits, "hit")],
    ["users", several(bucket.unique_users, "unique user")],
  ];
  if (before) lines.push(["before", `${several(before.hits, "hit")} in the time before`]);
  if (bucket.partial) lines.push(["partial", PARTIAL]);
  return { name: name(bucket), lines };
}

function said(row) {
  return row.partial ? PARTIAL : "";
}
