// The inside of a line of markdown: code, bold, italic, struck, links. HTML in it is just text.

import { h } from "./dom.js";

const DEEPEST = 8;
const CLOSED = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "del" };
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const WORD = /[\p{L}\p{N}]/u;
const TRAILING = ".,;:!?*_~"; // belongs to the sentence an address ends
const BARE = /https?:\/\/[^\s<>"'`]+/y;

/** An address a link may have: the web and mail, nothing that runs or reads. null for others. */
export function safeUrl(text) {
  try {
    const url = new URL(text);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** Nodes of a line. */
export function inline(text, depth = 0) {
  return depth > DEEPEST ? [text] : new Reader(text, depth).read();
}

class Reader {
  nodes = [];
  plain = "";
  at = 0;
  // closers that were looked for in vain: looked for once, so that a hostile text costs no square of its length
  missing = new Set();

  constructor(text, depth) {
    this.text = text;
    this.depth = depth;
  }

  read() {
    while (this.at < this.text.length) {
      if (!this.special()) this.plain += this.text[this.at++];
    }
    this.flush();
    return this.nodes;
  }

  flush() {
    if (this.plain) this.nodes.push(this.plain);
    this.plain = "";
  }

  add(node, end) {
    this.flush();
    this.nodes.push(node);
    this.at = end;
    return true;
  }

  special() {
    const c = this.text[this.at];
    switch (c) {
      case "\\":
        return this.escape();
      case "`":
        return this.code();
      case "\n":
        return this.add(h("br"), this.at + 1);
      case "*":
      case "_":
      case "~":
        return this.emphasis(c);
      case "!":
        return this.text[this.at + 1] === "[" && this.link(this.at + 1);
      case "[":
        return this.link(this.at);
      case "<":
        return this.angled();
      case "h":
        return this.bare();
      default:
        return false;
    }
  }

  escape() {
    const next = this.text[this.at + 1];
    if (!next || !ESCAPABLE.test(next)) return false;
    this.plain += next;
    this.at += 2;
    return true;
  }

  run(c) {
    let end = this.at;
    while (this.text[end] === c) end++;
    return end - this.at;
  }

  find(mark, from, fits) {
    if (this.missing.has(mark)) return -1;
    for (let i = this.text.indexOf(mark, from); i >= 0; i = this.text.indexOf(mark, i + 1)) {
      if (fits(i)) return i;
    }
    this.missing.add(mark);
    return -1;
  }

  code() {
    const ticks = "`".repeat(this.run("`"));
    const start = this.at + ticks.length;
    const end = this.find(
      ticks,
      start,
      (i) => this.text[i - 1] !== "`" && this.text[i + ticks.length] !== "`",
    );
    if (end < 0) {
      this.plain += ticks;
      this.at = start;
      return true;
    }
    let inside = this.text.slice(start, end);
    if (inside.startsWith(" ") && inside.endsWith(" ") && inside.trim()) inside = inside.slice(1, -1);
    return this.add(h("code", {}, inside), end + ticks.length);
  }

  emphasis(c) {
    const length = Math.min(this.run(c), 2);
    const mark = c.repeat(length);
    const start = this.at + length;
    const before = this.text[this.at - 1] ?? " ";
    const opens = CLOSED[mark] && /\S/.test(this.text[start] ?? " ") && !(c === "_" && WORD.test(before));
    const closes = (i) => {
      if (i === start || /\s/.test(this.text[i - 1]) || this.text[i - 1] === "\\") return false;
      if (length === 1 && (this.text[i + 1] === c || this.text[i - 1] === c)) return false;
      return !(c === "_" && WORD.test(this.text[i + length] ?? " "));
    };
    let end = opens ? this.find(mark, start, closes) : -1;
    if (end < 0) {
      const marks = this.run(c);
      this.plain += c.repeat(marks);
      this.at += marks;
      return true;
    }
    // "***both***": the outer pair closes last
    while (length === 2 && this.text[end + 2] === c) end++;
    return this.add(h(CLOSED[mark], {}, inline(this.text.slice(start, end), this.depth + 1)), end + length);
  }

  link(open) {
    const close = this.text.indexOf("](", open);
    if (close < 0 || close - open > 1000 || this.text.slice(open + 1, close).includes("\n\n")) return false;
    const end = this.destination(close + 2);
    if (end < 0) return false;
    // trimmed first: a pattern with spaces at both ends would try every way to share them out
    const [, address] =
      /^<?([^\s>]*)>?(?:\s+(?:"[^"]*"|'[^']*'))?$/.exec(this.text.slice(close + 2, end).trim()) ?? [];
    const url = address === undefined ? null : safeUrl(address);
    if (url === null) return false;
    const label = this.text.slice(open + 1, close);
    // an image is named, not loaded: the page asks nobody but its own server
    const inside = open > this.at ? [label || "image"] : inline(label, this.depth + 1).map(unlinked);
    return this.add(anchor(url, inside), end + 1);
  }

  destination(from) {
    let depth = 0;
    for (let i = from; i < this.text.length && i - from < 2000; i++) {
      if (this.text[i] === "(") depth++;
      else if (this.text[i] === ")" && depth-- === 0) return i;
      else if (this.text[i] === "\n") return -1;
    }
    return -1;
  }

  angled() {
    const end = this.text.indexOf(">", this.at);
    if (end < 0 || end - this.at > 2000) return false;
    const inside = this.text.slice(this.at + 1, end);
    const url = /^(https?:\/\/|mailto:)\S+$/.test(inside) ? safeUrl(inside) : null;
    return url !== null && this.add(anchor(url, [inside]), end + 1);
  }

  bare() {
    if (WORD.test(this.text[this.at - 1] ?? " ")) return false;
    BARE.lastIndex = this.at;
    const found = BARE.exec(this.text);
    if (!found) return false;
    let last = found[0].length;
    while (TRAILING.includes(found[0][last - 1])) last--;
    let address = found[0].slice(0, last);
    if (address.endsWith(")") && !address.includes("(")) address = address.slice(0, -1);
    const url = safeUrl(address);
    return url !== null && this.add(anchor(url, [address]), this.at + address.length);
  }
}

const anchor = (url, inside) =>
  h("a", { href: url, target: "_blank", rel: "noopener noreferrer nofollow" }, inside);
// a link inside a link's text is only text
const unlinked = (node) => (node.tagName === "A" ? node.textContent : node);
