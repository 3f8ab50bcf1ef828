// A panel of the page, and the states that it can be in: at work, full, empty, or in trouble. Its
// height is the style sheet's in all of them, so that nothing jumps.

import { button, byId, element } from "./dom.js";
import { download } from "./csv.js";

const LONGEST_WAIT_SECONDS = 30;

/** What a panel tells the page: that a token is needed. */
export const needs = new EventTarget();

export class Panel {
  #work = 0;
  #table = null; // what is downloaded: columns and rows

  constructor(id) {
    this.root = byId(id);
    if (this.root.dataset.title) furnish(this.root);
    this.body = this.root.querySelector(".body");
    this.note = this.root.querySelector(".note");
    this.#addDownload(id);
  }

  /** Whether what it shows is of another view. */
  get isOld() {
    return "old" in this.root.dataset;
  }

  /** Show that the view is another one now, until there is something of it. */
  turn() {
    this.root.dataset.old = "";
    this.#clearProblem();
  }

  /** Do work that asks the API; what fails is told, and done again when that may help. */
  async run(signal, work, tries = 0) {
    if (signal.aborted) return;
    this.#busy(1);
    try {
      await work();
      if (!signal.aborted) this.#clearProblem();
    } catch (error) {
      if (!signal.aborted) this.#fail(error, tries, signal, () => this.run(signal, work, tries + 1));
    } finally {
      this.#busy(-1);
    }
  }

  /** Fill it; `table` is what of it can be downloaded. */
  show(content, table = null) {
    delete this.root.dataset.old;
    this.#table = table;
    if (this.downloadButton) this.downloadButton.disabled = !table?.rows.length;
    this.#place([content].flat());
  }

  /** Say that there is nothing, and why. */
  empty(text) {
    this.show(element("p", { class: "empty" }, text));
  }

  /** Say why something is not asked for, and offer to do it. */
  offer(text, signal, work) {
    this.show(
      element("div", { class: "empty" }, element("p", {}, text, button("Ask", () => this.run(signal, work)))),
    );
  }

  say(text) {
    if (this.note) this.note.textContent = text;
  }

  /** Put nodes in place of what there was; what has the focus keeps it, by its key. */
  #place(nodes) {
    if (nodes.length === 1 && this.body.childNodes.length === 1 && this.body.firstChild === nodes[0]) {
      return;
    }
    const focused = this.body.contains(document.activeElement) && document.activeElement.dataset.key;
    this.body.replaceChildren(...nodes);
    if (!focused) return;
    const again = [...this.body.querySelectorAll("[data-key]")];
    again.find((node) => node.dataset.key === focused)?.focus({ preventScroll: true });
  }

  #busy(step) {
    this.#work += step;
    this.root.setAttribute("aria-busy", String(this.#work > 0));
  }

  #fail(error, tries, signal, again) {
    if (error.needsToken) {
      needs.dispatchEvent(new CustomEvent("token", { detail: error.message }));
      return;
    }
    if (!("status" in error)) console.error(error); // a fault of ours
    if (this.isOld && !this.keeps) this.body.replaceChildren();
    this.#clearProblem();
    const wait = error.retryAfter && Math.min(LONGEST_WAIT_SECONDS, error.retryAfter * 2 ** tries);
    const timer = wait && setTimeout(again, wait * 1000);
    signal.addEventListener("abort", () => clearTimeout(timer));
    const now = () => {
      clearTimeout(timer);
      again();
    };
    const later = wait ? ` Asking again in ${wait} s.` : "";
    this.problem = element(
      "div",
      { class: "problem", role: "status" },
      element("p", {}, `${sentence(error)}${later}`),
      button("Ask again", now),
    );
    this.root.append(this.problem);
  }

  #clearProblem() {
    this.problem?.remove();
    this.problem = null;
  }

  #addDownload(id) {
    const slot = this.root.querySelector(".download");
    if (!slot) return;
    const save = () => download(`${id}.csv`, this.#table.columns, this.#table.rows);
    const title = this.root.querySelector("h2").textContent;
    const attributes = { class: "quiet", disabled: true, "aria-label": `${title} as CSV` };
    this.downloadButton = button("CSV", save, attributes);
    slot.replaceWith(this.downloadButton);
  }
}

/** Give a panel that has a title, and perhaps what belongs beside it, all that panels have. */
function furnish(root) {
  const title = `${root.id}-title`;
  root.setAttribute("aria-labelledby", title);
  root.append(
    element(
      "header",
      {},
      element("h2", { id: title }, root.dataset.title),
      element("span", { class: "note" }),
      ...root.children,
      root.dataset.download !== "no" && element("span", { class: "download" }),
    ),
    element("div", { class: "body", tabindex: 0, role: "region", "aria-labelledby": title }),
  );
}

function sentence(error) {
  if (error.code === "query_timeout") return "This takes too long: ask about a shorter time.";
  const text = error.message;
  const end = /[.!?]$/.test(text) ? "" : ".";
  return text.charAt(0).toUpperCase() + text.slice(1) + end;
}
