// The panel beside a conversation: how replies are drawn. Kept for the next time.

import { $ } from "./dom.js";
import { remember, remembered } from "./page.js";

const START = { temperature: "1", topP: "1", maxTokens: "1024", think: false, budget: "1024", tools: false };

/** How replies are asked for, as the panel and the toggles under the message box say. */
export class Settings {
  #now = { ...START, ...remembered("settings", {}) };
  #toolbox = [];

  constructor() {
    for (const [id, name] of [
      ["temperature", "temperature"],
      ["top-p", "topP"],
      ["max-tokens", "maxTokens"],
      ["budget", "budget"],
    ]) {
      const field = $(id);
      field.value = this.#now[name];
      const changed = () => {
        this.#now[name] = field.value;
        this.#changed();
      };
      field.addEventListener("input", changed);
    }
    for (const name of ["think", "tools"]) {
      $(name).addEventListener("click", () => {
        this.#now[name] = !this.#now[name];
        this.#changed();
      });
    }
    $("reset-settings").addEventListener("click", () => this.#reset());
    this.#changed();
  }

  #reset() {
    this.#now = { ...START };
    for (const [id, name] of [
      ["temperature", "temperature"],
      ["top-p", "topP"],
      ["max-tokens", "maxTokens"],
      ["budget", "budget"],
    ])
      $(id).value = this.#now[name];
    this.#changed();
  }

  #changed() {
    remember("settings", this.#now);
    for (const name of ["think", "tools"]) $(name).setAttribute("aria-pressed", String(this.#now[name]));
    $("temperature-said").textContent = Number(this.#now.temperature).toFixed(2);
    $("top-p-said").textContent = Number(this.#now.topP).toFixed(2);
    $("budget-row").hidden = !this.#now.think;
  }

  /** The tools there are for the model now; the toggle hides when there are none. */
  set toolbox(tools) {
    this.#toolbox = tools;
    $("tools").hidden = tools.length === 0;
    $("tools").title = `Offer the model: ${tools.map(({ name }) => name).join(", ")}`;
  }

  /** The tools the model is offered. */
  get tools() {
    return this.#now.tools ? this.#toolbox : [];
  }

  /** The fields of a request. What stands at its neutral value is left out. */
  fields() {
    const { temperature, topP, maxTokens, think, budget } = this.#now;
    const most = Math.max(1, Math.floor(Number(maxTokens)) || Number(START.maxTokens));
    const fields = { max_tokens: most };
    // more than 1 the API refuses; an older page remembered up to 2
    if (Number(temperature) < 1) fields.temperature = Number(temperature);
    if (Number(topP) < 1) fields.top_p = Number(topP);
    if (think) {
      const tokens = Math.max(1024, Math.floor(Number(budget)) || 1024);
      // the budget counts within max_tokens; the reader means the reply
      fields.max_tokens += tokens;
      fields.thinking = { type: "enabled", budget_tokens: tokens };
    }
    return fields;
  }
}
