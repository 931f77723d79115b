// What all pages share: the theme, the key, the models, and errors shown where they happened.

import { ApiError, json, key, keepKey, takeKey } from "./api.js";
import { $, h, icon, say } from "./dom.js";

const THEME = "publius.theme";

/** Read a small setting; `otherwise` when there is none. */
export function remembered(name, otherwise) {
  try {
    const text = localStorage.getItem(`publius.${name}`);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return otherwise;
  }
}

/** Remember a small setting. */
export function remember(name, value) {
  try {
    localStorage.setItem(`publius.${name}`, JSON.stringify(value));
  } catch {
    // no storage: it is asked for again the next time
  }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem(THEME, theme);
  } catch {
    // no storage: it lives as long as the page
  }
}

function drawTheme() {
  const button = $("theme");
  const dark = () =>
    (document.documentElement.dataset.theme ??
      (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const draw = () => {
    const label = dark() ? "Light theme" : "Dark theme";
    button.replaceChildren(icon(dark() ? "sun" : "moon"));
    button.setAttribute("aria-label", label);
    button.title = label;
  };
  button.addEventListener("click", () => {
    setTheme(dark() ? "light" : "dark");
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}

/** Ask for the key; gives true when one was given. */
export function askKey(why = "") {
  const dialog = $("key-dialog");
  const field = $("key-field");
  $("key-why").textContent = why;
  field.value = key();
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        if (dialog.returnValue !== "keep") return resolve(false);
        keepKey(field.value.trim());
        resolve(true);
      },
      { once: true },
    );
  });
}

function drawKey() {
  const button = $("key");
  button.append(icon("key"));
  button.addEventListener("click", async () => {
    if (await askKey()) location.reload();
  });
  // not submitted (the page's policy forbids that), only closed
  const close = (how) => $("key-dialog").close(how);
  $("key-keep").addEventListener("click", () => close("keep"));
  $("key-leave").addEventListener("click", () => close(""));
  $("key-field").addEventListener("keydown", (event) => event.key === "Enter" && close("keep"));
}

/**
 * Do `ask` with the server; where it wants a key, ask the reader for one and do it again.
 * @throws {ApiError} what `ask` throws otherwise.
 */
export async function withKey(ask) {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      const again =
        error instanceof ApiError &&
        error.status === 401 &&
        (await askKey(key() ? "The server does not know this key." : "This server asks for a key."));
      if (!again) throw error;
    }
  }
}

/** The models served, `{id, display_name}` each. */
export async function models() {
  const page = await withKey(() => json("/v1/models?limit=1000"));
  return page.data;
}

/** Fill a picker with models; `fallback` is chosen when `wanted` is not among them. */
export function fillPicker(picker, found, wanted, fallback = found[0]?.id) {
  picker.replaceChildren(
    ...found.map(({ id, display_name }) => h("option", { value: id }, display_name || id)),
  );
  picker.value = found.some(({ id }) => id === wanted) ? wanted : (fallback ?? "");
}

const ADVICE = {
  connection_error: "Is the server running, and the network there?",
  rate_limit_error: "Too much at once.",
  overloaded_error: "The server has as much to do as it can.",
  authentication_error: "The key was not accepted.",
  permission_error: "This key may not do that.",
};

/** An error as the page shows it, with its request id, and a retry where `retry` is given. */
export function errorCard(error, retry = null) {
  const { type = "error", message, requestId, retryAfter, status } = error;
  const about = [
    type.replaceAll("_", " "),
    status >= 400 && String(status),
    retryAfter && `try again in ${retryAfter} s`,
  ]
    .filter(Boolean)
    .join(" · ");
  const again =
    retry &&
    h("button", { type: "button", class: "small", on: { click: retry } }, icon("again"), "Try again");
  const newKey =
    status === 401 &&
    h(
      "button",
      { type: "button", class: "small", on: { click: async () => (await askKey()) && retry?.() } },
      icon("key"),
      "Change the key",
    );
  say(`Error. ${message}`);
  return h(
    "div",
    { class: "card error" },
    h("p", { class: "card-head" }, icon("warn"), about),
    h("p", {}, message),
    ADVICE[type] && h("p", { class: "fine" }, ADVICE[type]),
    requestId && h("p", { class: "fine" }, "Request ", h("code", {}, requestId)),
    (again || newKey) && h("p", { class: "row" }, again, newKey),
  );
}

/** An error nobody foresaw, as one. */
export const asError = (error) =>
  error instanceof ApiError ? error : new ApiError("page_error", String(error?.message ?? error));

/** Begin a page: the theme and key buttons work, and a key in the address has been taken. */
export function beginPage() {
  takeKey();
  drawTheme();
  drawKey();
}
