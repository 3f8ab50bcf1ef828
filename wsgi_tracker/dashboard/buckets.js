// Which time a view is about, and which buckets a chart of it has. The API knows time zones and
// the length of days; here are only names of periods, and dates that are counted on.

const HOUR = 3_600_000;
const DAY = 24 * HOUR;

/** Periods on offer: how trends are asked for them, and the buckets that suit them. */
export const PERIODS = {
  today: { label: "Today", trends: { period: "today" }, granularity: "hour" },
  yesterday: { label: "Yesterday", trends: { period: "yesterday" }, granularity: "hour" },
  day: { label: "24 hours", trends: { period: "24h" }, granularity: "hour" },
  week: { label: "7 days", trends: { period: "7d" }, granularity: "day" },
  month: { label: "30 days", trends: { period: "30d" }, granularity: "day" },
  year: { label: "1 year", trends: { period: "1y" }, granularity: "week" },
  all: { label: "All", trends: { start: "1970-01-01" }, granularity: "week" }, // they begin with visits
};
/** Of more visits than these nothing is asked unbidden that no counter knows. */
export const MANY_HITS = 2_000_000;
export const GRANULARITIES = ["hour", "day", "week", "month"];

/** Return the parameters that say which time reports are about. */
export function time(view) {
  const zone = view.tz ? { tz: view.tz } : {};
  if (!isRange(view)) return { period: view.period, ...zone };
  return { ...(view.start && { start: view.start }), ...(view.end && { end: view.end }), ...zone };
}

/** Return those of trends, which name their periods otherwise. */
export function timeOfTrends(view) {
  const { period, ...rest } = time(view);
  const granularity = granularityOf(view);
  return { ...PERIODS[period]?.trends, ...rest, granularity, fill: "true" };
}

export function isRange(view) {
  return Boolean(view.start || view.end);
}

/** Whether there is a time before, of the same length. */
export function hasBefore(view) {
  return isRange(view) ? Boolean(view.start) : view.period !== "all";
}

/** Whether visits to come will be in the view, too. */
export function isOpen(view) {
  if (isRange(view)) return !view.end || Date.parse(view.end) > Date.now();
  return view.period !== "yesterday";
}

/** Return the granularity that was chosen, or one that makes a readable number of buckets. */
export function granularityOf(view) {
  if (view.granularity) return view.granularity;
  if (!isRange(view)) return PERIODS[view.period].granularity;
  const end = view.end ? Date.parse(view.end) : Date.now();
  const days = (end - Date.parse(view.start || "2020-01-01")) / DAY;
  if (days <= 3) return "hour";
  if (days <= 100) return "day";
  return days <= 3 * 365 ? "week" : "month";
}

/** Return the range from one bucket to another as parameters; the end is left out where it is now. */
export function rangeOf(first, last, granularity, open) {
  return { start: startOf(first, granularity), end: open ? "" : endOf(last, granularity) };
}

function startOf(name, granularity) {
  return granularity === "month" ? `${name}-01` : name;
}

function endOf(name, granularity) {
  if (granularity === "hour") {
    return new Date(Date.parse(name) + HOUR).toISOString().replace(".000Z", "Z");
  }
  if (granularity === "month") {
    const [year, month] = name.split("-").map(Number);
    return new Date(Date.UTC(year, month, 1)).toISOString().slice(0, 10);
  }
  return addDays(name, granularity === "week" ? 7 : 1);
}

/** Return the date so many days later, as text. */
export function addDays(date, days) {
  const start = Date.parse(`${date.slice(0, 10)}T00:00:00Z`);
  return Number.isNaN(start) ? "" : new Date(start + days * DAY).toISOString().slice(0, 10);
}
