// The line that says whether tracking is well, and what to do where it is not.

import { ask } from "./api.js";
import { byId, element } from "./dom.js";
import { number } from "./format.js";

const POLL_SECONDS = 15;
const line = byId("health");
let said = "";

/** Do something now and every so many seconds, while the page can be seen, until `signal`. */
export function every(seconds, signal, work) {
  let isAtWork = false;
  const round = async () => {
    if (document.hidden || isAtWork) return;
    isAtWork = true;
    await work();
    isAtWork = false;
  };
  const timer = setInterval(round, seconds * 1000);
  document.addEventListener("visibilitychange", round, { signal });
  signal.addEventListener("abort", () => clearInterval(timer));
  return round();
}

export function watchHealth(signal) {
  return every(POLL_SECONDS, signal, async () => {
    try {
      show((await ask("health", {}, signal)).body);
    } catch (error) {
      // Who needs a token is told by the panels.
      if (!signal.aborted && !error.needsToken) tell("bad", "Nobody knows whether tracking is well", [error.message]);
    }
  });
}

function show(health) {
  const { problems, warnings } = health;
  if (problems.length) {
    const dropped = health.dropped ? [`${number(health.dropped)} visits were dropped so far.`] : [];
    tell("bad", "Tracking has a problem", [...problems, ...dropped]);
  } else if (warnings.length) {
    tell("warn", warnings.length > 1 ? `${number(warnings.length)} warnings` : "One warning", warnings);
  } else {
    tell("good", "All is well", []);
  }
}

/** Say it in a word, and in a line that opens the whole of it. */
function tell(kind, title, lines) {
  const text = [title, ...lines].join("\n");
  if (text === said) return; // who listens has heard it, and who reads has it open
  said = text;
  line.className = kind;
  const dot = element("span", { class: "dot" });
  if (!lines.length) {
    line.replaceChildren(dot, title);
    return;
  }
  line.replaceChildren(
    element(
      "details",
      {},
      element("summary", {}, dot, title, element("span", { class: "first" }, lines[0])),
      element("ul", {}, ...lines.map((each) => element("li", {}, each))),
    ),
  );
}
