// Numbers, durations and moments, in the locale of who reads.

const whole = new Intl.NumberFormat();
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumSignificantDigits: 3 });
const decimal = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });
const share = new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 2 });
const difference = new Intl.NumberFormat(undefined, {
  style: "percent",
  maximumFractionDigits: 0,
  signDisplay: "exceptZero",
});
const NOTHING = "–";

export const number = (value) => (value == null ? NOTHING : whole.format(value));
export const compact = (value) => short.format(value);
export const several = (value, name) => `${number(value)} ${name}${value === 1 ? "" : "s"}`;
export const rate = (value) => (value == null ? NOTHING : decimal.format(value));
export const percent = (value) => (value == null ? NOTHING : share.format(value));

const made = new Map();

/** Return the format that these name; formats are costly to make, and so kept. */
function format(Format, options) {
  const key = JSON.stringify(options);
  if (!made.has(key)) made.set(key, new Format(undefined, options));
  return made.get(key);
}

function inUnit(value, unit, maximumSignificantDigits) {
  const options = { style: "unit", unit, unitDisplay: "narrow", maximumSignificantDigits };
  return format(Intl.NumberFormat, options).format(value);
}

/** Say how long so many microseconds are. */
export function duration(microseconds) {
  if (microseconds == null) return NOTHING;
  if (microseconds < 1e6) return inUnit(microseconds / 1e3, "millisecond", 3);
  return seconds(microseconds / 1e6);
}

/** Say how long so many seconds are, in the one or two units that matter. */
export function seconds(value) {
  if (value == null) return NOTHING;
  if (value < 60) return inUnit(value, "second", 3);
  const [large, small, size] = value < 3600 ? ["minute", "second", 60] : ["hour", "minute", 3600];
  const rounded = Math.round(value / (size / 60));
  const rest = rounded % 60;
  const first = inUnit(Math.floor(rounded / 60), large, 6);
  return rest ? `${first} ${inUnit(rest, small, 2)}` : first;
}

/** Return what became more or less: text, and 1, -1 or 0. */
export function change(now, before) {
  if (now == null || before == null) return { text: "", direction: 0 };
  if (before === 0) return now === 0 ? { text: "0%", direction: 0 } : { text: "new", direction: 1 };
  const part = now / before - 1;
  return { text: difference.format(part), direction: Math.sign(Math.round(part * 100)) };
}

/** Return a time zone that this browser knows, else its own. */
export function knownZone(name) {
  try {
    return new Intl.DateTimeFormat(undefined, { timeZone: name || undefined }).resolvedOptions()
      .timeZone;
  } catch {
    return undefined;
  }
}

const say = (date, timeZone, options) =>
  format(Intl.DateTimeFormat, { ...options, timeZone }).format(date);

const DAY = { day: "numeric", month: "short" };
const CLOCK = { hour: "2-digit", minute: "2-digit" };

const SECONDS = { ...CLOCK, second: "2-digit" };
export const moment = (text, zone) => say(new Date(text), zone, { ...DAY, ...SECONDS });
export const longMoment = (text, zone) =>
  say(new Date(text), zone, { dateStyle: "medium", timeStyle: "short" });
export const clock = (text, zone) => say(new Date(text), zone, SECONDS);

/** Say which bucket a name of the API is. Those of a day and more are dates, in no zone. */
export function bucketName(name, granularity, zone) {
  if (granularity === "hour") return say(new Date(name), zone, { weekday: "short", ...DAY, ...CLOCK });
  const date = dateOf(name);
  if (granularity === "month") return say(date, "UTC", { month: "long", year: "numeric" });
  const day = { ...DAY, year: "numeric" };
  if (granularity === "week") return `Week of ${say(date, "UTC", day)}`;
  return say(date, "UTC", { weekday: "short", ...day });
}

function dateOf(name) {
  return new Date(`${name.length === 7 ? `${name}-01` : name}T00:00:00Z`);
}

/** Say it for an axis, where there is little room. */
export function bucketTick(name, granularity, zone) {
  if (granularity === "hour") {
    const text = say(new Date(name), zone, { ...CLOCK, hourCycle: "h23" });
    return text === "00:00" ? say(new Date(name), zone, DAY) : text;
  }
  return say(dateOf(name), "UTC", granularity === "month" ? { month: "short", year: "2-digit" } : DAY);
}

/** Say a bound of a range: a date as it is, a moment in a zone. */
export function bound(text, zone) {
  if (/^\d{4}-\d\d-\d\d$/.test(text)) {
    return say(new Date(`${text}T00:00:00Z`), "UTC", { ...DAY, year: "numeric" });
  }
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? text : say(date, zone, { ...DAY, ...CLOCK });
}
