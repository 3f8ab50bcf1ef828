// The chart's panel: the trend, the time before behind it, and the same as a table.

import { ask } from "./api.js";
import { granularityOf, hasBefore, isOpen, isRange, rangeOf, timeOfTrends } from "./buckets.js";
import { Chart } from "./chart.js";
import { byId, element } from "./dom.js";
import { bucketName, bucketTick, knownZone, number } from "./format.js";
import { Panel } from "./panel.js";
import { go, view as current } from "./state.js";
import { table } from "./table.js";

const panel = new Panel("trend");
let buckets = [];
let chart = null;

export const trend = {
  turn() {
    panel.turn();
    // One bucket more or less, and the line of another time would stand beside.
    chart?.showBefore(null);
  },

  load: (view, signal) =>
    panel.run(signal, async () => {
      const { body } = await ask("trends", { ...timeOfTrends(view), ...view.filters }, signal);
      buckets = body.trends.toReversed();
      draw(view);
    }),

  comparison: (view, signal) =>
    panel.run(signal, async () => {
      if (!hasBefore(view)) return;
      const asked = { ...timeOfTrends(view), ...view.filters, compare: "previous" };
      const { body } = await ask("trends", asked, signal);
      buckets = body.trends.toReversed();
      draw(view);
      chart.showBefore(body.previous.trends.toReversed());
    }),
};

function draw(view) {
  const granularity = granularityOf(view);
  const zone = knownZone(view.tz);
  const name = (bucket) => bucketName(bucket.time_bucket, granularity, zone);
  const columns = [
    { name: "time_bucket", label: "Time", value: (row) => row.time_bucket, cell: name },
    { name: "hits", label: "Hits", numeric: true, value: (row) => row.hits, cell: of("hits") },
    {
      name: "unique_users",
      label: "Unique users",
      numeric: true,
      value: (row) => row.unique_users,
      cell: of("unique_users"),
    },
    { name: "partial", label: "", value: (row) => String(row.partial), cell: said },
  ];
  const isEmpty = !buckets.some((bucket) => bucket.hits);
  byId("nothing").hidden = !isEmpty;
  place();
  chart.describe = (bucket, before) => describe(bucket, before, name);
  chart.tick = (bucket) => bucketTick(bucket.time_bucket, granularity, zone);
  panel.show(chart.root.parentElement, { columns, rows: buckets });
  chart.show(buckets);
  const rows = buckets.toReversed();
  byId("trend-table").replaceChildren(table({ caption: "The trend in figures", columns, rows }));
}

/** Make the chart, once. */
function place() {
  if (chart) return;
  chart = new Chart(element("div"), { onZoom: zoom, onReset: resetZoom });
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
    ["hits", `${number(bucket.hits)} hits`],
    ["users", `${number(bucket.unique_users)} unique users`],
  ];
  if (before) lines.push(["before", `${number(before.hits)} hits in the time before`]);
  if (bucket.partial) lines.push(["partial", "not a whole one"]);
  return { name: name(bucket), lines };
}

function of(key) {
  return (row) => number(row[key]);
}

function said(row) {
  return row.partial ? "not a whole one" : "";
}
