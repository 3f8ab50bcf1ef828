// Questions to the API: with the token, a few at a time, and errors that say what to do.

// Of these four, so many that counters answer, and so many that read visits: a process answers no
// more than four of the latter at a time, to everybody.
const quick = { most: 2, running: 0, waiting: [] };
const slow = { most: 2, running: 0, waiting: [] };
// Two trackers of one host are two pages, with a token each.
const KEY = `wsgi_tracker.token:${location.pathname}`;

/** What the API refused, or could not answer; `status` is 0 where nothing came back. */
export class ApiError extends Error {
  constructor(status, code, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter; // seconds, or null: asking again would not help
  }

  get needsToken() {
    return this.status === 401;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** Take the token out of the address, where it has one behind the #, which no server sees. */
export function takeTokenFromAddress() {
  const found = /^#token=(.*)$/.exec(location.hash);
  if (!found) return false;
  history.replaceState(null, "", location.pathname + location.search);
  try {
    token.set(decodeURIComponent(found[1]).trim());
  } catch {
    token.set(found[1]); // a % that escapes nothing: no token, as the API will say
  }
  return true;
}

/** Ask for a report, and return its JSON and the query string of the next page, if there is one. */
export const ask = (...question) => inTurn(quick, ...question);

/** Ask what takes longer, and must not keep others waiting. */
export const askSlowly = (...question) => inTurn(slow, ...question);

async function inTurn(lane, report, parameters, signal) {
  if (lane.running >= lane.most) await new Promise((resolve) => lane.waiting.push(resolve));
  lane.running += 1;
  try {
    signal.throwIfAborted(); // while it waited
    const response = await send(report, parameters, signal);
    const next = /^<\?([^>]*)>; rel="next"/.exec(response.headers.get("Link") ?? "");
    return { body: await read(response), next: next ? next[1] : null };
  } finally {
    lane.running -= 1;
    lane.waiting.shift()?.();
  }
}

async function send(report, parameters, signal) {
  const query = String(new URLSearchParams(parameters));
  const own = token.get();
  // Relative to the page, which stands beside the reports whatever stands before it. The token
  // must not follow a redirection.
  const request = { signal, redirect: "error", headers: own ? { Authorization: `Bearer ${own}` } : {} };
  try {
    return await fetch(query ? `${report}?${query}` : report, request);
  } catch (error) {
    if (signal.aborted) throw error;
    throw new ApiError(0, "no_answer", "The server does not answer.", 2);
  }
}

async function read(response) {
  let body;
  try {
    body = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    body = null; // a proxy's page, or an answer that was cut off
  }
  if (response.ok && body) return body;
  const { code = "no_json", message = `The server answered ${response.status}.` } = body?.error ?? {};
  throw new ApiError(response.status, code, message, retryAfter(response, code));
}

function retryAfter(response, code) {
  if (code === "query_timeout" || ![200, 502, 503, 504].includes(response.status)) return null;
  return Number(response.headers.get("Retry-After")) || 5;
}
