// What people give marks with: a scale from 0 to 4, and tags.

import { h } from "./dom.js";

/** Harm, in words. */
export const HARM = ["none", "slight", "some", "serious", "grave"];

/**
 * A scale of radio buttons. `value` of what comes back is the number chosen, null for none.
 * @param {string} name of the group, alone on the page.
 */
export function scale(name, title, words = HARM) {
  const steps = words.map((word, i) => {
    const input = h("input", { type: "radio", name, value: String(i) });
    return { input, element: h("label", {}, input, h("span", {}, `${i} ${word}`)) };
  });
  const element = h(
    "fieldset",
    {},
    h("legend", {}, title),
    h(
      "div",
      { class: "steps" },
      steps.map((step) => step.element),
    ),
  );
  return {
    element,
    get value() {
      const at = steps.findIndex(({ input }) => input.checked);
      return at < 0 ? null : at;
    },
    set value(wanted) {
      steps.forEach(({ input }, i) => {
        input.checked = i === wanted;
      });
    },
  };
}

/** Tags to tick, and a field for further ones, parted by commas. */
export function tags(title, words) {
  const ticks = words.map((word) => {
    const input = h("input", { type: "checkbox", value: word });
    return { word, input, element: h("label", {}, input, h("span", {}, word)) };
  });
  const more = h("input", {
    type: "text",
    "aria-label": "Other tags, parted by commas",
    placeholder: "other, tags",
  });
  const element = h(
    "fieldset",
    {},
    h("legend", {}, title),
    h(
      "div",
      { class: "steps" },
      ticks.map((tick) => tick.element),
    ),
    more,
  );
  return {
    element,
    get value() {
      const own = more.value
        .split(",")
        .map((word) => word.trim())
        .filter(Boolean);
      return [...ticks.filter(({ input }) => input.checked).map(({ word }) => word), ...own];
    },
    set value(wanted) {
      for (const { word, input } of ticks) input.checked = wanted.includes(word);
      more.value = wanted.filter((word) => !words.includes(word)).join(", ");
    },
  };
}
