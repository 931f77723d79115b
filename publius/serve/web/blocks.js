// The parts of a reply on the page: text, thinking folded away, tool calls with what came back.

import { h, icon } from "./dom.js";
import { show } from "./markdown.js";
import { textOf } from "./tree.js";

const pretty = (value) => JSON.stringify(value, null, 2);
const brief = (input) => {
  const values = Object.values(input ?? {});
  const text =
    values.length === 1 && typeof values[0] !== "object" ? String(values[0]) : JSON.stringify(input ?? {});
  return text.length > 60 ? `${text.slice(0, 59)}…` : text;
};

function textView() {
  const element = h("div", { class: "prose" });
  return { element, update: (block) => show(element, block.text) };
}

function thinkingView() {
  const label = h("span", {});
  const body = h("div", { class: "thinking" });
  const element = h("details", { class: "thought" }, h("summary", {}, icon("thought"), label), body);
  const update = (block) => {
    element.classList.toggle("live", Boolean(block.open));
    const words = block.thinking.trim().split(/\s+/).filter(Boolean).length;
    label.textContent = block.open ? "Thinking" : `Thought, ${words} word${words === 1 ? "" : "s"}`;
    body.textContent = block.thinking.trim();
  };
  return { element, update };
}

function hiddenView() {
  return {
    element: h("p", { class: "fine" }, icon("thought"), "Thinking that the server keeps to itself"),
    update() {},
  };
}

function callView() {
  const name = h("b", {});
  const asked = h("code", {});
  const answered = h("span", { class: "answered" });
  const input = h("pre", { tabindex: "0" });
  const result = h("pre", { tabindex: "0" });
  const resultPart = h("div", {}, h("p", { class: "fine" }, "Result"), result);
  const summary = h("summary", {}, icon("tool"), name, asked, answered);
  const element = h(
    "details",
    { class: "call" },
    summary,
    h("p", { class: "fine" }, "Input"),
    input,
    resultPart,
  );
  const update = (block, answer) => {
    name.textContent = block.name;
    asked.textContent = block.open ? (block.written ?? "…") : brief(block.input);
    input.textContent = block.open ? (block.written ?? "") : pretty(block.input);
    resultPart.hidden = !answer;
    element.classList.toggle("failed", Boolean(answer?.is_error));
    if (!answer) return;
    result.textContent = answer.content;
    answered.textContent = `${answer.is_error ? "failed: " : ""}${answer.content.length > 60 ? `${answer.content.slice(0, 59)}…` : answer.content}`;
  };
  return { element, update };
}

const VIEWS = { text: textView, thinking: thinkingView, redacted_thinking: hiddenView, tool_use: callView };

/**
 * Show the blocks of a reply in `place`; called again with more of them it changes only what is new.
 * @param {Map<string, Object>} results of tool calls, by the call's id.
 */
export function showBlocks(place, content, results = new Map()) {
  place.views ??= [];
  content.forEach((block, i) => {
    if (!VIEWS[block.type]) return;
    if (!place.views[i]) {
      place.views[i] = VIEWS[block.type]();
      place.append(place.views[i].element);
    }
    place.views[i].update(block, results.get(block.id));
  });
}

const CATEGORY = (name) => (name ? ` (${name.replaceAll("_", " ")})` : "");

/** What stands under a reply that did not simply end. */
export function endingNote(node) {
  if (node.stopReason === "refusal") {
    const { category, explanation } = node.stopDetails ?? {};
    return h(
      "div",
      { class: "card refusal" },
      h("p", { class: "card-head" }, icon("shield"), `Declined${CATEGORY(category)}`),
      h("p", {}, explanation || "The server's monitor ended this reply."),
    );
  }
  const said = {
    max_tokens: "The reply reached the largest number of tokens and was cut.",
    model_context_window_exceeded: "The conversation has filled the model's memory; the reply was cut.",
    stopped: "Stopped.",
    end_turn: textOf(node).trim() ? null : "The model ended its reply without a word.",
  }[node.stopReason];
  return said ? h("p", { class: "fine" }, said) : null;
}

/** Tokens and speed, in a line. */
export function usageLine(node) {
  const { usage, speed, model } = node;
  if (!usage) return "";
  const read =
    (usage.input_tokens ?? 0) +
    (usage.cache_read_input_tokens ?? 0) +
    (usage.cache_creation_input_tokens ?? 0);
  const thought = usage.output_tokens_details?.thinking_tokens;
  return [
    model,
    `${read.toLocaleString("en")} in`,
    `${(usage.output_tokens ?? 0).toLocaleString("en")} out${thought ? ` (${thought.toLocaleString("en")} thinking)` : ""}`,
    usage.cache_read_input_tokens > 0 && `${usage.cache_read_input_tokens.toLocaleString("en")} cached`,
    speed && `${speed < 10 ? speed.toFixed(1) : Math.round(speed)} tokens/s`,
  ]
    .filter(Boolean)
    .join(" · ");
}
