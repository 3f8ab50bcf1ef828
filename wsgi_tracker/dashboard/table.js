// A table: columns that say what they show of a row, and headers that sort.

import { button, element } from "./dom.js";

/**
 * Make a table. A column has a `name`, which the API and CSV use, a `label`, and of a row its
 * `value` and, where that is not its text, what is shown in the `cell`. `sort` is a name, after a
 * `-` from the greatest, and `onSort` is told which one is asked for.
 */
export function table({ caption, columns, rows, sort, onSort, className, attributes = () => ({}) }) {
  return element(
    "table",
    { class: className },
    element("caption", { class: "hidden" }, caption),
    element("colgroup", {}, ...columns.map((column) => element("col", { class: column.name }))),
    element("thead", {}, element("tr", {}, ...columns.map((column) => header(column, sort, onSort)))),
    element("tbody", {}, ...rows.map((row) => line(columns, row, attributes(row)))),
  );
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
