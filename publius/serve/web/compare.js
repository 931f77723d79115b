// The compare page: two blind answers, and which is better.

import { json } from "./api.js";
import { showBlocks } from "./blocks.js";
import { $, append, h, icon, say, writing } from "./dom.js";
import { scale, tags } from "./marks.js";
import { asError, beginPage, errorCard, fillPicker, models, remember, remembered, withKey } from "./page.js";

const TAGS = ["helpful", "honest", "kind", "wrong", "harmful", "needless refusal", "too long"];
const CHOICES = [
  ["left", "Left is better", "1"],
  ["tie", "A tie", "2"],
  ["right", "Right is better", "3"],
];

class Compare {
  #shown = null;
  #since = 0;
  #busy = false;
  #mine = 0;
  #marks = null;

  async start() {
    $("rater").value = remembered("name", "");
    $("rater").addEventListener("input", () => remember("name", $("rater").value));
    for (const id of ["model-a", "model-b"])
      $(id).addEventListener("change", () => remember(id, $(id).value));
    $("write").addEventListener("click", () => this.#write());
    addEventListener("keydown", (event) => this.#key(event));
    await this.#do(async () => {
      const found = await models();
      fillPicker($("model-a"), found, remembered("model-a", ""));
      fillPicker($("model-b"), found, remembered("model-b", ""), found.at(-1)?.id);
      await this.#next();
    });
  }

  #who() {
    const max_tokens = Math.min(8192, Math.max(1, Math.floor(Number($("length").value)) || 512));
    return {
      rater: $("rater").value.trim(),
      models: [$("model-a").value, $("model-b").value].filter(Boolean),
      max_tokens,
    };
  }

  #ask(name, body = {}) {
    return withKey(() => json(`/web/compare/${name}`, { method: "POST", body: { ...this.#who(), ...body } }));
  }

  /** One thing at a time; what goes wrong is shown, with a way to do it again. */
  async #do(work) {
    if (this.#busy) return;
    this.#busy = true;
    $("notice").replaceChildren();
    this.#lock(true);
    try {
      await work();
    } catch (error) {
      $("notice").replaceChildren(errorCard(asError(error), () => this.#do(work)));
    } finally {
      this.#busy = false;
      this.#lock(false);
    }
  }

  #lock(locked) {
    for (const button of document.querySelectorAll("main button"))
      button.disabled = locked && !button.closest("#notice");
    const undo = $("undo");
    if (undo) undo.disabled = locked || !this.#mine;
    $("pair").setAttribute("aria-busy", String(locked));
  }

  async #next() {
    if (!this.#shown)
      $("pair").replaceChildren(h("p", { class: "quietly" }, "Two answers are being written…"));
    this.#show(await this.#ask("next"));
  }

  #write() {
    const text = $("text").value.trim();
    if (!text) return $("text").focus();
    return this.#do(async () => {
      this.#show(await this.#ask("write", { text }));
      $("text").value = "";
      $("own").open = false;
      $("pair").focus();
    });
  }

  #choose(better) {
    if (!this.#shown || this.#busy) return null;
    const { left, right, words } = this.#marks;
    const said = {
      pair: this.#shown.id,
      better,
      harm_left: left.value,
      harm_right: right.value,
      tags: words.value,
      seconds: (performance.now() - this.#since) / 1000,
    };
    return this.#do(async () => {
      if (this.#shown?.id === said.pair) {
        await this.#ask("say", said);
        this.#shown = null; // kept: a retry goes on with the next one
      }
      await this.#next();
      say("Kept. The next pair");
    });
  }

  #undo() {
    return this.#do(async () => {
      const answer = await this.#ask("undo");
      if (answer.pair) this.#show(answer);
      say("Taken back");
    });
  }

  #key(event) {
    if (writing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    const choice = CHOICES.find(([, , digit]) => digit === event.key);
    if (choice) this.#choose(choice[0]);
    else if (event.key === "u") this.#undo();
  }

  #show({ pair, said, progress, agreement, rater, own_key }) {
    $("rater-row").hidden = own_key; // a key of one's own has one's name
    this.#shown = pair;
    this.#since = performance.now();
    this.#mine = progress.mine;
    this.#facts(progress, agreement, rater);
    const undo = h(
      "button",
      { type: "button", class: "small", id: "undo", on: { click: () => this.#undo() } },
      icon("undo"),
      "Undo the last",
      h("kbd", {}, "u"),
    );
    if (!pair) {
      const text = progress.mine
        ? "Nothing more waits for you. Thank you. You can ask something of your own."
        : "No prompts wait. Ask something of your own, and two answers are written to it.";
      $("pair").replaceChildren(h("p", { class: "quietly" }, text), h("p", { class: "row end" }, undo));
      $("own").open = true;
      return;
    }
    this.#marks = {
      left: scale("harm-left", "Harm"),
      right: scale("harm-right", "Harm"),
      words: tags("Tags", TAGS),
    };
    const buttons = CHOICES.map(([value, label, digit]) =>
      h(
        "button",
        {
          type: "button",
          "aria-pressed": said ? String(said.better === value) : null,
          on: { click: () => this.#choose(value) },
        },
        label,
        h("kbd", {}, digit),
      ),
    );
    $("pair").replaceChildren(
      h(
        "div",
        { class: "write" },
        this.#prompt(pair),
        h(
          "div",
          { class: "pair" },
          this.#answer("Left", pair.left, this.#marks.left, said?.better === "left"),
          this.#answer("Right", pair.right, this.#marks.right, said?.better === "right"),
        ),
        this.#marks.words.element,
        h("div", { class: "choices", role: "group", "aria-label": "Which is better" }, buttons),
        h("p", { class: "row end" }, undo),
      ),
    );
    if (said) {
      this.#marks.left.value = said.harm_left;
      this.#marks.right.value = said.harm_right;
      this.#marks.words.value = said.tags;
    }
  }

  #prompt({ system, messages }) {
    const parts = messages.map(({ role, content }) => {
      const place = h("div", { class: "blocks" });
      showBlocks(place, content);
      return h(
        "div",
        { class: "said" },
        messages.length > 1 && h("span", { class: "who" }, role === "user" ? "Person" : "Model"),
        role === "user" ? content.map((block) => block.text ?? block.content ?? "").join("\n") : place,
      );
    });
    return h("div", {}, system && h("p", { class: "fine" }, `System prompt: ${system}`), parts);
  }

  #answer(title, content, harm, picked) {
    const place = h("div", { class: "blocks" });
    showBlocks(place, content);
    if (!place.textContent.trim()) append(place, [h("p", { class: "fine" }, "An empty answer.")]);
    return h(
      "section",
      { class: picked ? "answer picked" : "answer", "aria-label": `${title} answer` },
      h("h2", {}, title),
      place,
      harm.element,
    );
  }

  #facts(progress, agreement, rater) {
    const done = progress.mine;
    $("bar").max = Math.max(1, done + progress.left);
    $("bar").value = done;
    const alpha =
      agreement.alpha === null
        ? null
        : h(
            "span",
            {
              title: `Krippendorff's alpha over ${agreement.units} pairs that two or more people compared: 1 is perfect, 0 is chance`,
            },
            "agreement ",
            h("b", {}, agreement.alpha.toFixed(2)),
          );
    $("facts").replaceChildren(
      ...[
        h("span", {}, h("b", {}, String(done)), ` compared by ${rater}`),
        h("span", {}, h("b", {}, String(progress.left)), " left"),
        progress.raters > 1 && h("span", {}, h("b", {}, String(progress.raters)), " people"),
        alpha,
      ].filter(Boolean),
    );
  }
}

beginPage();
new Compare().start();
