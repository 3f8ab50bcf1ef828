// A table: columns that say what they show of a row, and headers that sort.

import { button, element } from "./dom.js";
import { number } from "./format.js";

// Fewer characters make no narrower column, so that other figures move nothing; more no wider one.
const [FEWEST, MOST] = [6, 24];
const LONG = "8rem"; // what a column of long texts has at least

/**
 * Make a table. A column has a `name`, which the API and CSV use, a `label`, and of a row its
 * `value` and, where that is not its text, what is shown in the `cell`. One that is `numeric`, or
 * `isShort`, is as wide as its longest text; others share the rest. `sort` is a name, after a `-`
 * from the greatest, and `onSort` is told which one is asked for.
 */
export function table({ caption, columns, rows, sort, onSort, className, attributes = () => ({}) }) {
  const cols = columns.map((column) => element("col", { class: column.name }));
  const made = element(
    "table",
    { class: className },
    element("caption", { class: "hidden" }, caption),
    element("colgroup", {}, ...cols),
    element("thead", {}, element("tr", {}, ...columns.map((column) => header(column, sort, onSort)))),
    element("tbody", {}, ...rows.map((row) => line(columns, row, attributes(row)))),
  );
  setWidths(made, columns, cols);
  return made;
}

/** Let no short text reach into the next column, in any locale; where all is too much, one scrolls. */
function setWidths(made, columns, cols) {
  const lines = [...made.rows];
  const widths = columns.map(({ numeric, isShort }, index) => {
    if (!numeric && !isShort) return LONG;
    const lengths = lines.map(({ cells }) => cells[index].textContent.length);
    const longest = lengths.reduce((one, other) => Math.max(one, other), FEWEST);
    return (cols[index].style.width = `calc(${Math.min(longest, MOST)}ch + 1.75rem)`);
  });
  made.style.minWidth = `calc(${widths.join(" + ")})`;
}

function line(columns, row, attributes) {
  return element(
    "tr",
    attributes,
    ...columns.map((column) => {
      const shown = (column.cell ?? column.value)(row) ?? "–";
      return element("td", { class: column.numeric ? "number" : null }, shown);
    }),
  );
}

function header(column, sort, onSort) {
  const name = column.numeric ? "number" : null;
  if (!onSort || column.isFixed) return element("th", { scope: "col", class: name }, column.label);
  const isSorted = sort?.replace(/^-/, "") === column.name;
  const falls = sort?.startsWith("-");
  // Numbers are asked for from the greatest first, names from A.
  const next = isSorted ? !falls : column.numeric;
  return element(
    "th",
    { scope: "col", class: name, "aria-sort": isSorted && (falls ? "descending" : "ascending") },
    button(column.label, () => onSort((next ? "-" : "") + column.name), {
      "data-key": `sort ${column.name}`,
    }),
  );
}

/** Return a column of figures, which are the row's of that name and whole, where nothing else is said. */
export function figure(name, label, say = number, value = (row) => row[name]) {
  return { name, label, numeric: true, value, cell: (row) => say(value(row)) };
}

/** Return rows in their order; what has no value comes last, as the API has it. */
export function sorted(rows, columns, sort) {
  const column = columns.find(({ name }) => name === sort.replace(/^-/, ""));
  if (!column) return rows;
  const sign = sort.startsWith("-") ? -1 : 1;
  return rows.toSorted((a, b) => {
    const [x, y] = [column.value(a), column.value(b)];
    if (x == null || y == null) return (x == null) - (y == null);
    if (x === y) return 0;
    return x < y ? -sign : sign;
  });
}
