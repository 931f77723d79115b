// The list of conversations: find, open, name, export, delete.

import { $, download, h, iconButton, toast } from "./dom.js";
import { exported, nameOf, textOf } from "./tree.js";

const DAY = 86_400_000;

function age(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY) return "Yesterday";
  if (time >= midnight - 7 * DAY) return "Last seven days";
  return new Date(time).toLocaleDateString("en", { month: "long", year: "numeric" });
}

const fileName = (text) =>
  `${
    text
      .replace(/[^\p{L}\p{N}]+/gu, "-")
      .replace(/^-|-$/g, "")
      .slice(0, 60) || "conversation"
  }.json`;

function holds(conversation, words) {
  const text = [nameOf(conversation), ...Object.values(conversation.nodes).map(textOf)]
    .join("\n")
    .toLowerCase();
  return words.every((word) => text.includes(word));
}

/** The sidebar over a shelf. `open(id)` shows a conversation, `gone(id)` is told when one was deleted. */
export class Conversations {
  #shelf;
  #acts;
  #current = "";

  constructor(shelf, acts) {
    this.#shelf = shelf;
    this.#acts = acts;
    $("find").addEventListener("input", () => this.draw());
    $("find").addEventListener("keydown", (event) => {
      if (event.key === "Enter") $("list").querySelector("button.entry")?.click();
    });
    $("export-all").addEventListener("click", () =>
      download("conversations.json", JSON.stringify(this.#shelf.all().map(exported), null, 1)),
    );
  }

  /** Draw the list; `current` is marked. */
  draw(current = this.#current) {
    this.#current = current;
    const words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.#shelf.all().filter((conversation) => holds(conversation, words));
    const list = $("list");
    list.replaceChildren();
    let group = null;
    let items = null;
    for (const conversation of found) {
      const when = age(conversation.updated);
      if (when !== group) {
        group = when;
        items = h("ul", { "aria-label": when });
        list.append(h("p", { class: "fine", "aria-hidden": "true" }, when), items);
      }
      items.append(this.#entry(conversation));
    }
    if (!found.length)
      list.append(h("p", { class: "fine" }, words.length ? "Nothing found." : "Nothing here yet."));
    $("export-all").disabled = !this.#shelf.all().length;
  }

  #entry(conversation) {
    const { id } = conversation;
    const name = nameOf(conversation);
    const item = h("li", { class: id === this.#current && "current" });
    item.append(
      h(
        "button",
        {
          type: "button",
          class: "entry",
          "aria-current": id === this.#current && "true",
          title: name,
          on: { click: () => this.#acts.open(id) },
        },
        name,
      ),
      h(
        "span",
        { class: "entry-acts" },
        iconButton("pen", `Rename ${name}`, () => this.#rename(item, conversation)),
        iconButton("down", `Export ${name}`, () =>
          download(fileName(name), JSON.stringify(exported(conversation), null, 1)),
        ),
        iconButton("bin", `Delete ${name}`, () => this.#remove(conversation)),
      ),
    );
    return item;
  }

  #rename(item, conversation) {
    const field = h("input", {
      type: "text",
      "aria-label": "Title",
      maxlength: "120",
      value: nameOf(conversation),
    });
    let left = false;
    const leave = async (keep) => {
      if (left) return;
      left = true;
      if (keep) {
        conversation.title = field.value.trim();
        await this.#shelf.keep(conversation);
      }
      this.draw();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") leave(true);
      else if (event.key === "Escape") {
        event.stopPropagation();
        leave(false);
      }
    });
    field.addEventListener("blur", () => leave(true));
    item.replaceChildren(field);
    field.select();
  }

  async #remove(conversation) {
    await this.#shelf.remove(conversation.id);
    this.#acts.gone(conversation.id);
    this.draw();
    toast(`Deleted “${nameOf(conversation)}”`, "Undo", async () => {
      await this.#shelf.keep(conversation);
      this.#acts.open(conversation.id);
    });
  }
}
