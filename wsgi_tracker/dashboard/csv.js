// What a table shows, as a file. Figures are not rounded, and moments as the API has them.

import { element } from "./dom.js";

// What a spreadsheet would take for a formula, or what hides one.
const FORMULA = /^[=+\-@\x00-\x1f]/;

/** Return the file's text; each column has a name and the value of a row. */
export function csv(columns, rows) {
  const lines = [columns.map((column) => column.name)];
  for (const row of rows) lines.push(columns.map((column) => column.value(row)));
  return lines.map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}

function cell(value) {
  if (value == null) return "";
  if (typeof value === "number") return String(value);
  const text = String(value);
  const safe = FORMULA.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** Let the browser save it. */
export function download(name, columns, rows) {
  const blob = new Blob([csv(columns, rows)], { type: "text/csv;charset=utf-8" });
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
