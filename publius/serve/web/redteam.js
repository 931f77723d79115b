// The red-team page: attack a model over some turns, then say whether it broke.

import { json } from "./api.js";
import { $, h, icon, say } from "./dom.js";
import { markdown } from "./markdown.js";
import { HARM, scale, tags } from "./marks.js";
import { asError, beginPage, errorCard, fillPicker, models, remember, remembered, withKey } from "./page.js";

const TAGS = ["role play", "many turns", "disguise", "flattery", "false authority", "other language"];

class RedTeam {
  #turns = [];
  #receipt = "";
  #busy = false;
  #harm = scale("harm", "How bad was the worst of it?");
  #tags = tags("How", TAGS);

  async start() {
    $("marks").replaceChildren(h("div", { class: "write" }, this.#harm.element, this.#tags.element));
    $("send").append(icon("send"));
    $("undo").prepend(icon("undo"));
    $("over").prepend(icon("plus"));
    $("attacker").value = remembered("name", "");
    this.#listen();
    this.#draw();
    await this.#look(async () => fillPicker($("model"), await models(), remembered("attacked", "")));
  }

  /** How things stand, in the background: nobody has to wait for it. */
  async #look(first = async () => {}) {
    try {
      await first();
      this.#standing(await this.#ask("about"));
      this.#enable();
    } catch (error) {
      $("notice").replaceChildren(errorCard(asError(error), () => this.#look(first)));
    }
  }

  #listen() {
    $("attacker").addEventListener("input", () => remember("name", $("attacker").value));
    $("attacker").addEventListener("change", () => this.#look());
    $("category").addEventListener("change", () => this.#about());
    $("send").addEventListener("click", () => this.#send());
    $("over").addEventListener("click", () => this.#over());
    $("broke").addEventListener("click", () => this.#report(true));
    $("held").addEventListener("click", () => this.#report(false));
    $("undo").addEventListener("click", () => this.#do(async () => this.#standing(await this.#ask("undo"))));
    $("model").addEventListener("change", () => {
      remember("attacked", $("model").value);
      this.#over(); // a conversation belongs to one model
    });
    $("message").addEventListener("input", () => this.#enable());
    $("message").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
  }

  #ask(name, body = {}) {
    return withKey(() =>
      json(`/web/redteam/${name}`, {
        method: "POST",
        body: { attacker: $("attacker").value.trim(), ...body },
      }),
    );
  }

  async #do(work) {
    if (this.#busy) return;
    this.#busy = true;
    $("notice").replaceChildren();
    this.#enable();
    try {
      await work();
    } catch (error) {
      $("notice").replaceChildren(errorCard(asError(error), () => this.#do(work)));
    } finally {
      this.#busy = false;
      this.#enable();
    }
  }

  #over() {
    this.#turns = [];
    this.#receipt = "";
    this.#harm.value = null;
    this.#tags.value = [];
    $("note").value = "";
    $("notice").replaceChildren();
    this.#draw();
    $("message").focus();
  }

  #send() {
    const text = $("message").value.trim();
    if (!text || this.#busy || !$("model").value) return;
    const turns = [...this.#turns, { role: "user", text }];
    $("message").value = "";
    this.#turns = turns;
    this.#receipt = "";
    this.#draw(true);
    this.#do(async () => {
      const reply = await this.#ask("reply", { model: $("model").value, turns });
      this.#turns = [...turns, { role: "assistant", text: reply.text, refusal: reply.refusal }];
      this.#receipt = reply.receipt;
      this.#draw();
      say(`The model: ${reply.text}`);
      $("message").focus();
    });
  }

  #report(worked) {
    if (this.#harm.value === null && worked) {
      $("report-hint").textContent = "Say first how bad it was, from 0 to 4.";
      $("marks").querySelector("input").focus();
      return;
    }
    const turns = this.#turns.map(({ role, text }) => ({ role, text }));
    const found = {
      model: $("model").value,
      turns,
      receipt: this.#receipt,
      worked,
      harm: this.#harm.value ?? 0,
      category: $("category").value,
      tags: this.#tags.value,
      note: $("note").value.trim(),
    };
    this.#do(async () => {
      this.#standing(await this.#ask("found", found));
      say("Kept");
      this.#over();
    });
  }

  #draw(waiting = false) {
    const drawn = this.#turns.map(({ role, text, refusal }) =>
      role === "user"
        ? h("article", { class: "turn asked", "aria-label": "You" }, h("div", { class: "bubble" }, text))
        : h(
            "article",
            { class: "turn answered", "aria-label": "The model" },
            h(
              "div",
              { class: "prose" },
              text.trim() ? markdown(text) : h("p", { class: "fine" }, "An empty reply."),
            ),
            refusal &&
              h(
                "div",
                { class: "card refusal" },
                h(
                  "p",
                  { class: "card-head" },
                  icon("shield"),
                  `Declined by the monitor${refusal.category ? ` (${refusal.category})` : ""}`,
                ),
                h("p", {}, refusal.explanation),
              ),
          ),
    );
    if (waiting) drawn.push(h("div", { class: "waiting", "aria-hidden": "true" }, h("i"), h("i"), h("i")));
    const empty = h(
      "p",
      { class: "quietly" },
      "Pick what you are after, then talk the model into it. Every attempt teaches, also those that fail.",
    );
    $("thread").replaceChildren(...(drawn.length ? drawn : [empty]));
    this.#enable();
  }

  #enable() {
    const ready = !this.#busy && this.#receipt !== "";
    for (const id of ["broke", "held"]) $(id).disabled = !ready;
    $("over").disabled = this.#busy || !this.#turns.length;
    $("send").disabled = this.#busy || !$("message").value.trim() || !$("model").value;
    $("model").disabled = this.#busy;
    $("report-hint").textContent = ready
      ? "Kept with the whole conversation."
      : "Talk to the model first; then say what came of it.";
  }

  #about() {
    const [option] = $("category").selectedOptions;
    $("category-about").textContent = option?.dataset.about ?? "";
  }

  #standing({ categories, mine, tried, worked, attacker, own_key }) {
    $("attacker-row").hidden = own_key; // a key of one's own has one's name
    const chosen = $("category").value;
    const name = (id) => id.replaceAll("_", " ");
    $("category").replaceChildren(
      ...categories.map(({ id, about, found }) =>
        h("option", { value: id, data: { about } }, found ? `${name(id)} (${found} found)` : name(id)),
      ),
      h("option", { value: "other", data: { about: "Anything else that should not be." } }, "other"),
    );
    if (chosen) $("category").value = chosen;
    this.#about();
    $("facts").replaceChildren(
      h("span", {}, h("b", {}, String(tried)), ` tried by ${attacker}`),
      h("span", {}, h("b", {}, String(worked)), " broke it"),
    );
    $("undo").hidden = !mine.length;
    const rows = mine.map((one) =>
      h(
        "li",
        {},
        one.worked
          ? h("span", { class: "level", title: HARM[one.harm] }, String(one.harm))
          : h("span", { class: "fine" }, "held"),
        h("span", { class: "excerpt" }, one.asked),
        h("span", { class: "fine" }, name(one.category)),
      ),
    );
    $("mine").replaceChildren(
      ...(rows.length ? rows : [h("li", {}, h("span", { class: "fine" }, "Nothing yet."))]),
    );
  }
}

beginPage();
new RedTeam().start();
