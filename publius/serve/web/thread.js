// A conversation on the page: turns, the branches they have, and what one can do with each.

import { endingNote, showBlocks, usageLine } from "./blocks.js";
import { append, copy, h, iconButton } from "./dom.js";
import { errorCard } from "./page.js";
import { path, siblings, textOf } from "./tree.js";

const isResults = (node) =>
  node.role === "user" && node.content.every((block) => block.type === "tool_result");

/** Turns of a path: `{role, nodes}`. A reply with tool calls in it is one turn, their results included. */
export function turns(nodes) {
  const found = [];
  for (const node of nodes) {
    const last = found.at(-1);
    const same = last?.role === "assistant" && (node.role === "assistant" || isResults(node));
    if (same) last.nodes.push(node);
    else found.push({ role: node.role, nodes: [node] });
  }
  return found;
}

/** Draws a conversation into `place`. `acts` are what buttons do: `edit(node, text)`, `again(node)`,
 * `retry(node)` (of a reply that failed), `choose(node)`. */
export class Thread {
  #place;
  #acts;
  #live = null;

  constructor(place, acts) {
    this.#place = place;
    this.#acts = acts;
  }

  /** Draw all of it. `busy` hides what cannot be done while a reply comes. */
  draw(conversation, busy) {
    this.#live = null;
    const restore = this.#remember();
    this.#place.replaceChildren(
      ...turns(path(conversation)).map((turn) =>
        turn.role === "user"
          ? this.#asked(conversation, turn.nodes[0], busy)
          : this.#answered(conversation, turn.nodes, busy),
      ),
    );
    restore();
  }

  /** Where the reader was: what had the focus, and what they had unfolded. Gives what puts it back. */
  #remember() {
    const focused = this.#place.contains(document.activeElement) ? document.activeElement : null;
    const label = focused?.getAttribute("aria-label");
    const at = [...this.#place.children].findIndex((turn) => turn.contains(focused));
    const folds = () =>
      [...this.#place.children].flatMap((turn) =>
        [...turn.querySelectorAll("details")].map((one, i) => [`${turn.dataset.node}/${i}`, one]),
      );
    const open = new Set(folds().flatMap(([name, one]) => (one.open ? [name] : [])));
    return () => {
      for (const [name, one] of folds()) one.open = open.has(name);
      const turn = this.#place.children[at];
      const same =
        label &&
        [...(turn?.querySelectorAll("button") ?? [])].find(
          (button) => button.getAttribute("aria-label") === label,
        );
      (same?.disabled ? turn.querySelector(".acts button:not(:disabled)") : same)?.focus();
    };
  }

  /** Show more of the reply that comes in `node`, which was drawn last. */
  grow(content) {
    if (this.#live) showBlocks(this.#live, content);
  }

  #branches(conversation, node, busy) {
    const all = siblings(conversation, node.parent);
    if (all.length < 2) return null;
    const at = all.findIndex(({ id }) => id === node.id);
    const go = (step) => () => this.#acts.choose(all[at + step]);
    return h(
      "span",
      { class: "branches", role: "group", "aria-label": "Branches" },
      iconButton("left", "Branch before", go(-1), { disabled: busy || at === 0 }),
      h("span", {}, `${at + 1}/${all.length}`),
      iconButton("right", "Branch after", go(1), { disabled: busy || at === all.length - 1 }),
    );
  }

  #asked(conversation, node, busy) {
    const bubble = h("div", { class: "bubble" }, textOf(node));
    const turn = h("article", { class: "turn asked", "aria-label": "You", data: { node: node.id } }, bubble);
    const copyButton = iconButton("copy", "Copy message", () => copy(textOf(node), copyButton));
    const edit = iconButton("pen", "Edit and send again", () => this.#edit(turn, node), { disabled: busy });
    return append(turn, [
      h("div", { class: "acts" }, this.#branches(conversation, node, busy), copyButton, edit),
    ]);
  }

  #edit(turn, node) {
    const before = [...turn.childNodes];
    const field = h("textarea", { "aria-label": "Edit your message", rows: "3" });
    field.value = textOf(node);
    const leave = () => {
      turn.replaceChildren(...before);
      turn.querySelector("[aria-label^=Edit]").focus();
    };
    const send = () => field.value.trim() && this.#acts.edit(node, field.value.trim());
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        leave();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    });
    const buttons = h(
      "div",
      { class: "row end" },
      h("button", { type: "button", class: "small", on: { click: leave } }, "Cancel"),
      h("button", { type: "button", class: "small primary", on: { click: send } }, "Send"),
    );
    turn.replaceChildren(h("div", { class: "editing" }, field, buttons));
    field.focus();
  }

  #answered(conversation, nodes, busy) {
    const last = nodes.findLast((node) => node.role === "assistant");
    const results = new Map(
      nodes.filter(isResults).flatMap((node) => node.content.map((block) => [block.tool_use_id, block])),
    );
    const turn = h("article", {
      class: "turn answered",
      "aria-label": "Publius",
      data: { node: nodes[0].id },
    });
    for (const node of nodes) {
      if (node.role !== "assistant") continue;
      const place = h("div", { class: "blocks" });
      showBlocks(place, node.content, results);
      turn.append(place);
      if (busy && node.pending) this.#live = place;
    }
    const said = nodes
      .filter((node) => node.role === "assistant")
      .map(textOf)
      .filter(Boolean)
      .join("\n\n");
    if (busy && last.pending)
      return append(turn, [h("div", { class: "waiting", "aria-hidden": "true" }, h("i"), h("i"), h("i"))]);
    const again = () => this.#acts.again(nodes[0]);
    const copyButton = iconButton("copy", "Copy reply", () => copy(said, copyButton));
    return append(turn, [
      endingNote(last),
      last.error && errorCard(last.error, busy ? null : () => this.#acts.retry(last)),
      h(
        "div",
        { class: "acts" },
        this.#branches(conversation, nodes[0], busy),
        copyButton,
        iconButton("again", "Regenerate", again, { disabled: busy }),
        h("span", { class: "usage" }, usageLine(last)),
      ),
    ]);
  }
}
