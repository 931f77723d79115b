// Asking the server: the key, the headers, and errors as things a page can show.

import { Draft } from "./draft.js";
import { events } from "./sse.js";

const KEY = "publius.key";
let memory = "";

/** The reader's key, "" for none. */
export function key() {
  try {
    return localStorage.getItem(KEY) ?? memory;
  } catch {
    return memory;
  }
}

/** Keep a key in this browser, or forget it ("" does). */
export function keepKey(value) {
  memory = value;
  try {
    if (value) localStorage.setItem(KEY, value);
    else localStorage.removeItem(KEY);
  } catch {
    // no storage: it lives as long as the page
  }
}

/** Take `#key=...` out of the address, at once, so that it is in no history, bookmark or screenshot. */
export function takeKey() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given === null) return;
  history.replaceState(null, "", location.pathname + location.search);
  keepKey(given.trim());
}

/** An answer that was none. */
export class ApiError extends Error {
  constructor(type, message, { status = 0, requestId = "", retryAfter = "" } = {}) {
    super(message);
    Object.assign(this, { type, status, requestId, retryAfter });
  }
}

async function errorOf(response) {
  const about = {
    status: response.status,
    requestId: response.headers.get("request-id") ?? "",
    retryAfter: response.headers.get("retry-after") ?? "",
  };
  try {
    const { error } = await response.json();
    return new ApiError(error.type, error.message, about);
  } catch {
    return new ApiError("api_error", `the server answered ${response.status}`, about);
  }
}

/**
 * A response that went well.
 * @throws {ApiError} of the server's, or `connection_error`; an abort stays an AbortError.
 */
export async function request(path, { method = "GET", body, signal } = {}) {
  const headers = { "anthropic-version": "2023-06-01" };
  if (key()) headers["x-api-key"] = key();
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("connection_error", "The server cannot be reached.");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

/** A response's JSON. */
export const json = async (path, options) => (await request(path, options)).json();

/**
 * A streamed reply of the Messages API.
 * @param {Object} body of POST /v1/messages, without `stream`.
 * @param {(draft: Draft) => void} changed called whenever more of it is there.
 * @returns {Promise<Draft>} the whole of it.
 * @throws {ApiError} also for an error in the middle; `error.draft` is then what had come.
 */
export async function reply(body, { signal, changed = () => {} } = {}) {
  const draft = new Draft();
  try {
    const response = await request("/v1/messages", {
      method: "POST",
      body: { ...body, stream: true },
      signal,
    });
    draft.requestId = response.headers.get("request-id") ?? "";
    for await (const { data } of events(response.body)) {
      const event = JSON.parse(data);
      if (event.type === "error")
        throw new ApiError(event.error.type, event.error.message, {
          status: 200,
          requestId: draft.requestId,
        });
      draft.apply(event);
      if (event.type !== "ping") changed(draft);
    }
    if (!draft.done)
      throw new ApiError("connection_error", "The connection closed before the reply was whole.", {
        requestId: draft.requestId,
      });
    return draft;
  } catch (error) {
    const known = error.name === "AbortError" || error instanceof ApiError;
    const told = known
      ? error
      : new ApiError("connection_error", "The connection was lost while the reply came.", {
          requestId: draft.requestId,
        });
    told.draft = draft;
    throw told;
  }
}
