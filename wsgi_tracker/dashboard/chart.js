// The chart of a trend, and the small ones in tables: plain SVG, drawn anew when data or width change.
//
// Hits are an area, unique users a line before it, the time before a dashed line behind. What of a
// bucket is missing, as it has begun only just now or was cut, is dashed and has a hollow point.

import { element, svg } from "./dom.js";
import { compact } from "./format.js";

const HEIGHT = 260;
const TOP = 12;
const BOTTOM = 26;
const TICK_PIXELS = 84;
const DRAG_PIXELS = 6;

export class Chart {
  #buckets = [];
  #before = null;
  #at = -1; // the bucket that is pointed at
  #anchor = null; // where a selection began
  #dragged = null; // where the pointer went down

  /** `onZoom` gets first and last index. What says a bucket in words, and on the axis, is set later. */
  constructor(place, { onZoom, onReset }) {
    this.onZoom = onZoom;
    this.onReset = onReset;
    this.drawing = svg("svg", { "aria-hidden": "true", height: HEIGHT });
    this.tip = element("div", { class: "tip", "aria-hidden": "true", hidden: true });
    this.spoken = element("div", { class: "hidden", "aria-live": "polite" });
    this.root = element(
      "div",
      {
        class: "chart",
        tabindex: 0,
        role: "application",
        "aria-label": "Trend of hits and unique users",
        "aria-roledescription": "chart",
        "aria-describedby": "chart-help",
        keydown: (event) => this.#press(event),
        pointermove: (event) => this.#move(event),
        pointerdown: (event) => this.#down(event),
        pointerup: (event) => this.#up(event),
        pointerleave: () => this.#leave(),
        blur: () => this.#leave(),
      },
      this.drawing,
      this.tip,
    );
    place.append(this.root, this.spoken);
    new ResizeObserver(() => this.#draw()).observe(this.root);
  }

  /** Show buckets, the oldest first. */
  show(buckets) {
    if (buckets.length !== this.#buckets.length) {
      this.#before = this.#anchor = null;
      this.#at = -1;
    }
    this.#buckets = buckets;
    this.#draw();
  }

  /** Show those of the time before behind them; null takes them away. */
  showBefore(buckets) {
    this.#before = buckets;
    this.#draw();
  }

  #draw() {
    this.width = this.root.clientWidth;
    if (!this.width) return;
    const all = [...this.#buckets, ...(this.#before ?? [])];
    const ticks = scale(Math.max(1, ...all.map((bucket) => bucket.hits)));
    this.top = ticks.at(-1);
    this.left = 14 + 7 * Math.max(...ticks.map((tick) => compact(tick).length));
    this.drawing.setAttribute("width", this.width);
    this.marks = svg("g");
    this.drawing.replaceChildren(
      this.#axis(ticks),
      ...this.#names(),
      ...this.#missing(),
      ...this.#series(),
      this.marks,
    );
    this.#point(this.#at, false);
  }

  #x(index) {
    const room = this.width - this.left - 14;
    const count = this.#buckets.length;
    return count < 2 ? this.left + room / 2 : this.left + (room * index) / (count - 1);
  }

  #y(value) {
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / this.top);
  }

  #axis(ticks) {
    const lines = ticks.map((tick) => {
      const y = this.#y(tick);
      return [
        svg("line", { class: "rule", x1: this.left, x2: this.width - 8, y1: y, y2: y }),
        svg("text", { x: this.left - 8, y: y + 4, "text-anchor": "end" }, compact(tick)),
      ];
    });
    return svg("g", { class: "axis" }, ...lines);
  }

  #names() {
    const count = this.#buckets.length;
    const step = Math.max(1, Math.ceil(count / Math.max(1, (this.width - this.left) / TICK_PIXELS)));
    const names = [];
    for (let index = (count - 1) % step; index < count; index += step) {
      // The last one would be cut at the edge.
      const end = count > 1 && index === count - 1 ? "end" : "middle";
      const x = this.#x(index) + (end === "end" ? 8 : 0);
      const text = this.tick(this.#buckets[index]);
      names.push(svg("text", { class: "name", x, y: HEIGHT - 6, "text-anchor": end }, text));
    }
    return names;
  }

  /** Shade the half of a partial bucket's room that leads to its neighbour. */
  #missing() {
    const count = this.#buckets.length;
    if (count < 2) return [];
    const width = this.#x(1) - this.#x(0);
    return this.#buckets.flatMap((bucket, index) => {
      if (!bucket.partial || (index !== 0 && index !== count - 1)) return [];
      const x = index ? this.#x(index) - width / 2 : this.#x(index);
      const height = HEIGHT - TOP - BOTTOM;
      return svg("rect", { class: "missing", x, y: TOP, width: width / 2, height });
    });
  }

  #series() {
    const hits = this.#points("hits", this.#buckets);
    const before = (this.#before ?? []).slice(0, this.#buckets.length);
    return [
      svg("path", { class: "before", d: path(this.#points("hits", before)) }),
      area(hits, this.#y(0)),
      ...this.#line("hits", hits),
      ...this.#line("users", this.#points("unique_users", this.#buckets)),
    ];
  }

  #points(name, buckets) {
    return buckets.map((bucket, index) => [this.#x(index), this.#y(bucket[name])]);
  }

  /** Draw a line, dashed where it leads to a partial bucket, and the points of these. */
  #line(name, points) {
    const partial = this.#buckets.map((bucket) => bucket.partial);
    const isWhole = (index) => !partial[index] && !partial[index + 1];
    const parts = [];
    for (let index = 0; index < points.length - 1; index += 1) {
      const last = parts.at(-1);
      if (last?.isWhole === isWhole(index)) last.points.push(points[index + 1]);
      else parts.push({ isWhole: isWhole(index), points: [points[index], points[index + 1]] });
    }
    const lines = parts.map((part) =>
      svg("path", { class: `${name} ${part.isWhole ? "" : "partial"}`, d: path(part.points) }),
    );
    const dots = points
      .filter((_, index) => partial[index] || points.length === 1)
      .map(([cx, cy]) => svg("circle", { class: `${name} partial`, cx, cy, r: 3.5 }));
    return [...lines, ...dots];
  }

  /** Mark a bucket, and say it, if `aloud`. */
  #point(index, aloud) {
    this.#at = index < this.#buckets.length ? index : -1;
    this.marks?.replaceChildren(...this.#selection());
    const bucket = this.#buckets[this.#at];
    this.tip.hidden = !bucket;
    if (!bucket) return;
    const x = this.#x(this.#at);
    this.marks.append(
      svg("line", { class: "cursor", x1: x, x2: x, y1: TOP, y2: this.#y(0) }),
      svg("circle", { class: "hits", cx: x, cy: this.#y(bucket.hits), r: 4 }),
      svg("circle", { class: "users", cx: x, cy: this.#y(bucket.unique_users), r: 4 }),
    );
    const said = this.describe(bucket, this.#before?.[this.#at]);
    this.tip.replaceChildren(
      element("strong", {}, said.name),
      ...said.lines.map(([kind, text]) => element("span", { class: kind }, text)),
    );
    this.#placeTip(x);
    if (aloud) this.spoken.textContent = `${said.name}: ${said.lines.map((l) => l[1]).join(", ")}`;
  }

  #placeTip(x) {
    const width = this.tip.offsetWidth;
    const isRight = x + 14 + width < this.width;
    this.tip.style.left = `${Math.max(0, isRight ? x + 14 : x - 14 - width)}px`;
  }

  #selection() {
    if (this.#anchor === null || this.#at < 0) return [];
    const [first, last] = this.#range();
    const x = this.#x(first);
    const height = HEIGHT - TOP - BOTTOM;
    return [svg("rect", { class: "range", x, y: TOP, width: this.#x(last) - x, height })];
  }

  #range() {
    const other = this.#anchor ?? this.#at;
    return [Math.min(other, this.#at), Math.max(other, this.#at)];
  }

  #nearest(event) {
    const x = event.clientX - this.root.getBoundingClientRect().left;
    const step = this.#x(1) - this.#x(0) || 1;
    const index = Math.round((x - this.#x(0)) / step);
    return Math.max(0, Math.min(this.#buckets.length - 1, index));
  }

  #move(event) {
    if (!this.#buckets.length) return;
    if (this.#dragged && Math.abs(event.clientX - this.#dragged.x) > DRAG_PIXELS) {
      this.#anchor ??= this.#dragged.index;
    }
    this.#point(this.#nearest(event), false);
  }

  #down(event) {
    if (event.button !== 0 || !this.#buckets.length) return;
    this.#anchor = null;
    const index = this.#nearest(event);
    this.#dragged = { x: event.clientX, index };
    this.#point(index, false);
  }

  #up() {
    const wasDragged = this.#anchor !== null && this.#dragged;
    this.#dragged = null;
    if (wasDragged) this.#zoom();
  }

  #leave() {
    this.#dragged = null;
    this.#anchor = null;
    this.#point(-1, false);
  }

  #zoom() {
    const [first, last] = this.#range();
    this.#anchor = null;
    if (first >= 0) this.onZoom(first, last);
  }

  #press(event) {
    const last = this.#buckets.length - 1;
    const steps = { ArrowLeft: -1, ArrowRight: 1 };
    const ends = { Home: 0, End: last };
    const { key } = event;
    if (key in steps || key in ends) {
      if (event.shiftKey) this.#anchor ??= Math.max(0, this.#at);
      else this.#anchor = null;
      const from = this.#at < 0 ? (steps[key] > 0 ? -1 : last + 1) : this.#at;
      this.#point(ends[key] ?? Math.max(0, Math.min(last, from + steps[key])), true);
    } else if (key === "Enter" && this.#at >= 0) {
      this.#zoom();
    } else if (key === "Escape") {
      if (this.#anchor === null) this.onReset();
      this.#anchor = null;
      this.#point(this.#at, false);
    } else {
      return;
    }
    event.preventDefault();
  }
}

/** Make a small chart of a few values, without axes. */
export function sparkline(values, label) {
  const [width, height] = [96, 24];
  const top = Math.max(1, ...values);
  const step = width / Math.max(1, values.length - 1);
  const points = values.map((value, index) => [
    round(values.length < 2 ? width / 2 : index * step),
    round(2 + (height - 4) * (1 - value / top)),
  ]);
  return svg(
    "svg",
    { class: "sparkline", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label },
    area(points, height),
    svg("path", { class: "hits", d: path(points) }),
  );
}

/** Return round numbers from 0 to at least `most`, about four of them. */
function scale(most) {
  const rough = most / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].find((factor) => factor * power >= rough) * power);
  const ticks = [0];
  while (ticks.at(-1) < most) ticks.push(ticks.at(-1) + step);
  return ticks;
}

/** Make what lies between a line and its base. */
function area(points, base) {
  const down = points.length && `L${points.at(-1)[0]},${base}H${points[0][0]}Z`;
  return svg("path", { class: "area", d: down ? path(points) + down : "" });
}

function path(points) {
  return points.map(([x, y], index) => `${index ? "L" : "M"}${round(x)},${round(y)}`).join("");
}

function round(value) {
  return Math.round(value * 10) / 10;
}
