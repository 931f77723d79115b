// The chat page.

import { reply } from "./api.js";
import { Conversations } from "./conversations.js";
import { $, icon, toast, writing } from "./dom.js";
import { asError, beginPage, errorCard, fillPicker, models, remember, remembered, withKey } from "./page.js";
import { Settings } from "./settings.js";
import { Shelf } from "./shelf.js";
import { Thread } from "./thread.js";
import { Teller } from "./teller.js";
import { offered, run, specs } from "./tools.js";
import { add, begin, drop, messages, nameOf, path, textOf, upTo } from "./tree.js";

const MOST_ROUNDS = 12; // of tool calls in one turn: a model that calls for ever is stopped
const wide = matchMedia("(min-width: 60rem)");

class Chat {
  #shelf = new Shelf();
  #settings = new Settings();
  #conversation = begin();
  #ending = null; // aborts the reply that comes
  #list = new Conversations(this.#shelf, {
    open: (id) => this.#open(id),
    gone: (id) => id === this.#conversation.id && this.#new(),
  });
  #thread = new Thread($("thread"), {
    edit: (node, text) => this.#send(text, node.parent),
    again: (node) => this.#answer(node.parent),
    retry: (node) => this.#retry(node),
    choose: (node) => this.#choose(node),
  });

  async start() {
    await this.#shelf.load();
    if (!this.#shelf.lasting) toast("This browser keeps nothing: conversations last as long as this page.");
    const last = this.#shelf.get(remembered("open", ""));
    if (last) this.#conversation = last;
    this.#listen();
    this.#panels();
    this.#draw();
    await this.#fetchModels();
  }

  async #fetchModels() {
    try {
      fillPicker($("model"), await models(), remembered("model", ""));
      $("notice").replaceChildren();
      this.#drawSend();
      await this.#changeModel();
    } catch (error) {
      $("notice").replaceChildren(errorCard(asError(error), () => this.#fetchModels()));
    }
  }

  async #changeModel() {
    remember("model", $("model").value);
    this.#settings.toolbox = $("model").value
      ? await withKey(() => offered($("model").value)).catch(() => [])
      : [];
  }

  get #busy() {
    return this.#ending !== null;
  }

  // --- what the reader does

  #listen() {
    const box = $("message");
    $("send").addEventListener("click", () => (this.#busy ? this.#stop() : this.#sendBox()));
    box.addEventListener("input", () => this.#drawSend());
    if (!CSS.supports("field-sizing", "content")) {
      box.addEventListener("input", () => {
        box.style.height = "auto";
        box.style.height = `${box.scrollHeight}px`;
      });
    }
    box.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.#busy) this.#sendBox();
    });
    $("model").addEventListener("change", () => this.#changeModel());
    $("new").addEventListener("click", () => this.#new());
    $("system").addEventListener("input", () => {
      this.#conversation.system = $("system").value;
      if (path(this.#conversation).length) this.#shelf.keep(this.#conversation);
    });
    $("latest").addEventListener("click", () => this.#scrollDown(true));
    $("log").addEventListener("scroll", () => this.#drawLatest());
    addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      this.#show("sidebar", true);
      $("find").focus();
      $("find").select();
    } else if (event.key === "/" && !writing(event)) {
      event.preventDefault();
      $("message").focus();
    } else if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
      if (this.#busy) this.#stop();
      else if (!wide.matches) for (const panel of ["sidebar", "settings"]) this.#show(panel, false);
      else if (event.target === $("find")) $("message").focus();
    }
  }

  #panels() {
    for (const [button, panel, drawing] of [
      ["menu", "sidebar", "menu"],
      ["tune", "settings", "sliders"],
    ]) {
      $(button).prepend(icon(drawing));
      $(button).addEventListener("click", () => this.#show(panel, $(panel).hidden));
    }
    $("close-settings").append(icon("close"));
    $("close-settings").addEventListener("click", () => this.#show("settings", false));
    $("scrim").addEventListener("click", () =>
      ["sidebar", "settings"].forEach((panel) => this.#show(panel, false)),
    );
    for (const [id, name] of [
      ["new", "plus"],
      ["think", "thought"],
      ["tools", "tool"],
      ["export-all", "down"],
      ["latest", "down"],
    ])
      $(id).prepend(icon(name));
    this.#show("sidebar", wide.matches && remembered("sidebar", true));
    this.#show("settings", wide.matches && remembered("panel", false));
  }

  #show(panel, shown) {
    $(panel).hidden = !shown;
    $(panel === "sidebar" ? "menu" : "tune").setAttribute("aria-expanded", String(shown));
    if (!wide.matches && shown) $(panel === "sidebar" ? "settings" : "sidebar").hidden = true;
    if (wide.matches) remember(panel === "sidebar" ? "sidebar" : "panel", shown);
    $("scrim").hidden = wide.matches || ($("sidebar").hidden && $("settings").hidden);
  }

  #new() {
    this.#stop();
    this.#conversation = begin(this.#conversation.system);
    this.#opened();
  }

  #open(id) {
    if (id !== this.#conversation.id) this.#stop();
    this.#conversation = this.#shelf.get(id);
    this.#opened();
  }

  #opened() {
    remember("open", this.#conversation.id);
    if (!wide.matches) this.#show("sidebar", false);
    this.#draw();
    this.#scrollDown(true);
    $("message").focus();
  }

  #choose(node) {
    this.#conversation.chosen[node.parent] = node.id;
    this.#shelf.keep(this.#conversation);
    this.#draw();
  }

  // --- asking and being answered

  #sendBox() {
    const text = $("message").value.trim();
    if (!text || !$("model").value) return;
    $("message").value = "";
    const nodes = path(this.#conversation);
    this.#send(text, nodes.at(-1)?.id ?? "");
  }

  #send(text, parent) {
    const node = add(this.#conversation, parent, "user", [{ type: "text", text }]);
    return this.#answer(node.id);
  }

  #retry(node) {
    if (!node.content.length) drop(this.#conversation, node);
    return this.#answer(node.parent);
  }

  #stop() {
    this.#ending?.abort();
    this.#ending = null;
  }

  async #answer(parent) {
    this.#stop();
    const [conversation, ending] = [this.#conversation, new AbortController()];
    this.#ending = ending;
    const teller = new Teller();
    const here = () => this.#conversation === conversation;
    for (let round = 0; round < MOST_ROUNDS && parent; round++) {
      const node = add(conversation, parent, "assistant", [], { pending: true });
      // kept before it is answered: a page that is closed now must not take the question with it
      if (round === 0 || this.#shelf.get(conversation.id)) this.#shelf.keep(conversation);
      if (here()) {
        remember("open", conversation.id);
        this.#draw();
        this.#scrollDown(round === 0);
      }
      const model = $("model").value;
      const tools = this.#settings.tools;
      await this.#fill(conversation, node, { model, tools, teller, signal: ending.signal });
      parent = await this.#runTools(conversation, node, { model, tools, signal: ending.signal });
    }
    if (this.#ending === ending) this.#ending = null;
    // one that was deleted while it was answered stays so
    if (this.#shelf.get(conversation.id)) await this.#shelf.keep(conversation);
    if (here()) {
      const follow = this.#atEnd();
      this.#draw();
      this.#scrollDown(follow);
      this.#told(teller, path(conversation).at(-1));
    } else this.#list.draw();
  }

  async #fill(conversation, node, { model, tools, teller, signal }) {
    const body = { model, messages: messages(upTo(conversation, node.parent)), ...this.#settings.fields() };
    if (conversation.system.trim()) body.system = conversation.system.trim();
    if (tools.length) body.tools = specs(tools);
    let frame = 0;
    const changed = (draft) => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        if (this.#conversation !== conversation || !node.pending) return;
        const follow = this.#atEnd();
        this.#thread.grow(draft.content);
        teller.grow(textOf(draft));
        if (follow) this.#scrollDown(true);
      });
    };
    try {
      const draft = await withKey(() => reply(body, { signal, changed }));
      this.#settle(node, draft);
    } catch (error) {
      if (error.draft) this.#settle(node, error.draft);
      if (error.name === "AbortError") node.stopReason = "stopped";
      else {
        const { type, message, status, requestId, retryAfter } = asError(error);
        node.error = { type, message, status, requestId, retryAfter };
      }
    }
    delete node.pending;
  }

  #settle(node, draft) {
    Object.assign(node, {
      content: draft.kept(),
      model: draft.model || $("model").value,
      stopReason: draft.stopReason,
      stopDetails: draft.stopDetails,
      requestId: draft.requestId,
    });
    if (draft.done) Object.assign(node, { usage: draft.usage, speed: draft.speed });
  }

  /** Run the calls of a reply; gives the node to go on from, null when the turn is over. */
  async #runTools(conversation, node, { model, tools, signal }) {
    const calls =
      node.stopReason === "tool_use" ? node.content.filter((block) => block.type === "tool_use") : [];
    if (!calls.length) return null;
    try {
      const results = await Promise.all(calls.map((call) => run(call, tools, model, signal)));
      return add(conversation, node.id, "user", results).id;
    } catch {
      node.stopReason = "stopped";
      node.content = node.content.filter((block) => block.type !== "tool_use");
      return null;
    }
  }

  #told(teller, node) {
    if (node?.role !== "assistant" || node.error) return; // an error's card has spoken for itself
    if (node.stopReason === "stopped") teller.end("", "Stopped.");
    else if (node.stopReason === "refusal")
      teller.end(textOf(node), `Declined. ${node.stopDetails?.explanation ?? ""}`);
    else teller.end(textOf(node));
  }

  // --- drawing

  #draw() {
    const empty = path(this.#conversation).length === 0;
    document.body.classList.toggle("empty", empty);
    $("welcome").hidden = !empty;
    document.title = empty ? "Publius" : `${nameOf(this.#conversation)} · Publius`;
    $("log").setAttribute("aria-busy", String(this.#busy));
    $("system").value = this.#conversation.system;
    this.#thread.draw(this.#conversation, this.#busy);
    this.#list.draw(this.#conversation.id);
    this.#drawSend();
    this.#drawLatest();
  }

  #drawSend() {
    const label = this.#busy ? "Stop" : "Send";
    const button = $("send");
    if (button.getAttribute("aria-label") !== label)
      button.replaceChildren(icon(this.#busy ? "stop" : "send"));
    button.setAttribute("aria-label", label);
    button.title = this.#busy ? "Stop (Esc)" : "Send (Enter)";
    button.disabled = !this.#busy && !($("message").value.trim() && $("model").value);
  }

  #atEnd() {
    const log = $("log");
    return log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  }

  #scrollDown(always = false) {
    if (always || this.#atEnd()) $("log").scrollTop = $("log").scrollHeight;
    this.#drawLatest();
  }

  #drawLatest() {
    $("latest").hidden = this.#atEnd();
  }
}

beginPage();
new Chat().start();
