// Elements, built and never parsed: no text, of a model's or of a person's, is ever read as markup.

/**
 * An element.
 * @param {string} tag its name.
 * @param {Object} [attributes] `class`, `on` ({event: listener}), `data` ({name: value}), any other attribute;
 *   true sets it empty, false, null and undefined leave it out.
 * @param {...(Node|string|null|undefined|Array)} children
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "on")
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

/** Add children, flattening lists and leaving out what is not there. */
export function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

/** The element with this id, which the page has. */
export const $ = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";
const PATHS = {
  plus: "M12 5v14M5 12h14",
  menu: "M4 7h16M4 12h16M4 17h16",
  send: "M12 19V5M5.5 11.5 12 5l6.5 6.5",
  stop: "M7.5 7.5h9v9h-9z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "m5 12.5 4.5 4.5L19 7.5",
  again: "M19.5 12a7.5 7.5 0 1 1-2.2-5.3M19.5 4v4h-4",
  pen: "M4 20h4L19 9l-4-4L4 16zM13.5 6.5l4 4",
  bin: "M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.4L17 7",
  down: "M12 4v12M6.5 11 12 16.5 17.5 11M5 20h14",
  left: "m14.5 6-6 6 6 6",
  right: "m9.5 6 6 6-6 6",
  close: "M6 6l12 12M18 6 6 18",
  sliders: "M4 8h9M17 8h3M4 16h3M11 16h9M15 5.8v4.4M9 13.8v4.4",
  thought: "M9 18h6M10 21h4M8.5 15.5C6.5 14 5.5 12.2 5.5 9.8a6.5 6.5 0 0 1 13 0c0 2.4-1 4.2-3 5.7z",
  tool: "M14.5 6.5a4 4 0 0 1 5-1l-2.8 2.8 1.5 1.5L21 7a4 4 0 0 1-5.5 5L8 19.5 4.5 16 12 8.5",
  shield: "M12 3.5 5 6v6c0 4 3 7 7 8.5 4-1.5 7-4.5 7-8.5V6z",
  warn: "M12 4 3 19.5h18zM12 10v4.5M12 17v.1",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4",
  moon: "M19.5 14.5A8 8 0 0 1 9.5 4.5a8 8 0 1 0 10 10z",
  key: "M14.5 9.5a4.5 4.5 0 1 0-2.600 4l1.600 1.5H16v2.5h2.5V20H21v-3l-6.800-6.200a4.5 4.5 0 0 0 .3-1.3zM8.900 8.900v.1",
  search: "M10.5 4.5a6 6 0 1 0 0 12 6 6 0 0 0 0-12zM15 15l5 5",
  undo: "M9 8 4.5 12.5 9 17M4.5 12.5H15a4.5 4.5 0 0 0 0-9",
};

/** One of the page's drawings, for the eye only. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button that is a drawing; `label` is what it is called. */
export function iconButton(name, label, click, attributes = {}) {
  return h(
    "button",
    { type: "button", class: "quiet", "aria-label": label, title: label, on: { click }, ...attributes },
    icon(name),
  );
}

/** Copy, and show for a moment on `button` that it was done. */
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    return toast("This browser does not let a page of plain HTTP copy.");
  }
  const before = [...button.childNodes];
  button.replaceChildren(icon("check"));
  say("Copied");
  setTimeout(() => button.replaceChildren(...before), 1200);
}

/** Tell a screen reader, quietly. */
export function say(text) {
  const region = $("said");
  if (region) region.textContent = text;
}

/** A file for the reader to keep. */
export function download(name, text, type = "application/json") {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

let toastTimer = 0;

/** A line at the foot of the page for some seconds, with something to undo or do. */
export function toast(text, action = null, run = null) {
  const place = $("toast");
  const hide = () => place.replaceChildren();
  clearTimeout(toastTimer);
  const act = () => {
    hide();
    run();
  };
  place.replaceChildren(
    h(
      "div",
      { class: "toast" },
      h("span", {}, text),
      action && h("button", { type: "button", on: { click: act } }, action),
    ),
  );
  toastTimer = setTimeout(hide, 7000);
}

/** Whether the reader is writing, so that keys are letters. */
export const writing = (event) =>
  /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) &&
  event.target.type !== "radio" &&
  event.target.type !== "checkbox";
