// Markdown as DOM: headings, lists, quotes, tables, code. A small part of the language, all of it safe.

import { copy, h, icon } from "./dom.js";
import { highlight } from "./highlight.js";
import { inline } from "./inline.js";

// none of these may take more than a line's length of time, whatever the line
const FENCE = /^( {0,3})(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?=\s|$)/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:\s+|$)/;
const TABLE_RULE = /^ {0,3}\|? *:?-+:? *(?:\| *:?-+:? *)*\|?$/;
const DEEPEST = 12;

/**
 * Split text into top-level blocks `{kind, raw, ...}`; `raw` is the source, by which an unchanged block is known.
 */
export function blocks(text) {
  const lines = text.replaceAll("\r\n", "\n").replaceAll("\t", "    ").split("\n");
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at++;
      continue;
    }
    const block =
      fence(lines, at) ??
      heading(lines, at) ??
      rule(lines, at) ??
      quote(lines, at) ??
      list(lines, at) ??
      table(lines, at) ??
      paragraph(lines, at);
    block.raw = lines.slice(at, block.end).join("\n");
    found.push(block);
    at = block.end;
  }
  return found;
}

function fence(lines, at) {
  const open = FENCE.exec(lines[at]);
  if (!open) return null;
  const [, indent, marks, info] = open;
  const code = [];
  let end = at + 1;
  for (; end < lines.length; end++) {
    const close = lines[end].trim();
    if (close.length >= marks.length && close === marks[0].repeat(close.length))
      return { kind: "code", code: code.join("\n"), language: info.trim().split(/\s/)[0], end: end + 1 };
    code.push(lines[end].startsWith(indent) ? lines[end].slice(indent.length) : lines[end].trimStart());
  }
  return { kind: "code", code: code.join("\n"), language: info.trim().split(/\s/)[0], end };
}

function heading(lines, at) {
  const match = HEADING.exec(lines[at]);
  if (!match) return null;
  const said = lines[at].slice(match[0].length).trim();
  const bare = said.replace(/#{1,99}$/, "");
  return {
    kind: "heading",
    level: match[1].length,
    text: bare === "" || bare.endsWith(" ") ? bare.trim() : said,
    end: at + 1,
  };
}

const rule = (lines, at) => (RULE.test(lines[at]) ? { kind: "rule", end: at + 1 } : null);

function quote(lines, at) {
  if (!QUOTE.test(lines[at])) return null;
  let end = at;
  const inside = [];
  while (end < lines.length && QUOTE.test(lines[end])) inside.push(lines[end++].replace(QUOTE, ""));
  return { kind: "quote", text: inside.join("\n"), end };
}

function list(lines, at) {
  const first = ITEM.exec(lines[at]);
  if (!first || first[1].length > 3) return null;
  const ordered = /\d/.test(first[2]);
  const items = [];
  let [end, loose, gap] = [at, false, false];
  let inset = 0;
  for (; end < lines.length; end++) {
    const line = lines[end];
    if (!line.trim()) {
      gap = true;
      continue;
    }
    const item = ITEM.exec(line);
    const depth = line.length - line.trimStart().length;
    if (
      item &&
      depth < Math.max(inset, 1) + first[1].length &&
      depth <= first[1].length + 1 &&
      !RULE.test(line)
    ) {
      if (/\d/.test(item[2]) !== ordered) break;
      loose ||= gap && items.length > 0;
      inset = item[0].length;
      items.push([line.slice(inset)]);
    } else if (depth >= Math.min(inset, first[1].length + 2)) {
      if (gap) items.at(-1).push("");
      items.at(-1).push(line.slice(Math.min(depth, inset)));
    } else if (gap || begins(lines, end)) break;
    else items.at(-1).push(line.trimStart());
    gap = false;
  }
  while (end > at && !lines[end - 1].trim()) end--;
  return {
    kind: "list",
    ordered,
    start: ordered ? parseInt(first[2], 10) : 1,
    loose,
    items: items.map((item) => item.join("\n")),
    end,
  };
}

/** Cells of a row; `\|` and pipes in code do not divide. */
function cells(line) {
  const found = [""];
  let ticks = false;
  const row = line
    .trim()
    .replace(/^\|/, "")
    .replace(/(?<!\\)\|$/, "");
  for (let i = 0; i < row.length; i++) {
    if (row[i] === "\\" && row[i + 1] === "|") found[found.length - 1] += row[++i];
    else if (row[i] === "|" && !ticks) found.push("");
    else {
      if (row[i] === "`") ticks = !ticks;
      found[found.length - 1] += row[i];
    }
  }
  return found.map((cell) => cell.trim());
}

function table(lines, at) {
  if (!lines[at].includes("|") || !TABLE_RULE.test((lines[at + 1] ?? "").trimEnd())) return null;
  const head = cells(lines[at]);
  const rules = cells(lines[at + 1]);
  if (head.length !== rules.length) return null;
  const align = rules.map((r) => (r.endsWith(":") ? (r.startsWith(":") ? "center" : "end") : "start"));
  const rows = [];
  let end = at + 2;
  for (; end < lines.length && lines[end].includes("|") && lines[end].trim(); end++) {
    const row = cells(lines[end]);
    rows.push(head.map((_, i) => row[i] ?? ""));
  }
  return { kind: "table", head, align, rows, end };
}

const begins = (lines, at) =>
  FENCE.test(lines[at]) ||
  HEADING.test(lines[at]) ||
  RULE.test(lines[at]) ||
  QUOTE.test(lines[at]) ||
  ITEM.test(lines[at]);

function paragraph(lines, at) {
  let end = at + 1;
  // a numbered line goes on with the paragraph unless it is a first one, so that "in\n1984. It" is no list
  const interrupts = (i) => begins(lines, i) && !(/^ *\d/.test(lines[i]) && !/^ *1[.)]/.test(lines[i]));
  while (end < lines.length && lines[end].trim() && !interrupts(end) && !table(lines, end)) end++;
  return {
    kind: "paragraph",
    text: lines
      .slice(at, end)
      .map((line) => line.trim())
      .join("\n"),
    end,
  };
}

function codeBlock({ code, language }) {
  const button = h(
    "button",
    { type: "button", class: "quiet", "aria-label": "Copy code", title: "Copy code" },
    icon("copy"),
  );
  button.addEventListener("click", () => copy(code, button));
  return h(
    "figure",
    { class: "code" },
    h("figcaption", {}, h("span", {}, language || "text"), button),
    h(
      "pre",
      { tabindex: "0", role: "region", "aria-label": `Code${language ? `, ${language}` : ""}` },
      h("code", {}, highlight(code, language)),
    ),
  );
}

function listBlock(block, depth) {
  const items = block.items.map((item) => {
    const task = /^\[([ xX])\]\s+/.exec(item);
    const nodes = nested(task ? item.slice(task[0].length) : item, depth, !block.loose);
    const box =
      task &&
      h("input", {
        type: "checkbox",
        disabled: true,
        checked: task[1] !== " ",
        "aria-label": task[1] === " " ? "to do" : "done",
      });
    return h("li", { class: task && "task" }, box, nodes);
  });
  return h(
    block.ordered ? "ol" : "ul",
    { start: block.ordered && block.start !== 1 ? block.start : null },
    items,
  );
}

function tableBlock({ head, align, rows }) {
  const cell = (tag, text, i) =>
    h(
      tag,
      { class: align[i] === "start" ? null : align[i], scope: tag === "th" ? "col" : null },
      inline(text),
    );
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" },
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          head.map((text, i) => cell("th", text, i)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            row.map((text, i) => cell("td", text, i)),
          ),
        ),
      ),
    ),
  );
}

function nested(text, depth, tight = false) {
  if (depth > DEEPEST) return [text];
  return blocks(text).map((block) =>
    tight && block.kind === "paragraph" ? h("span", {}, inline(block.text)) : element(block, depth + 1),
  );
}

function element(block, depth) {
  switch (block.kind) {
    case "code":
      return codeBlock(block);
    case "heading":
      return h(block.rank ? `h${block.rank}` : "p", { class: `h${block.level}` }, inline(block.text));
    case "rule":
      return h("hr");
    case "quote":
      return h("blockquote", {}, nested(block.text, depth));
    case "list":
      return listBlock(block, depth);
    case "table":
      return tableBlock(block);
    default:
      return h("p", {}, inline(block.text));
  }
}

/** Blocks whose headings follow on the page's own (its h1) without a gap, whatever levels the text has. */
function ranked(found) {
  let last = 1;
  for (const block of found)
    if (block.kind === "heading") last = block.rank = Math.min(block.level + 1, last + 1, 6);
  return found;
}

/** Nodes of a text. */
export const markdown = (text) => ranked(blocks(text)).map((block) => element(block, 0));

/** Show `text` in `place`, leaving alone what has not changed since the last time: for a text that grows. */
export function show(place, text) {
  const now = ranked(blocks(text));
  const before = place.shown ?? [];
  let same = 0;
  while (same < before.length && same < now.length && before[same] === now[same].raw) same++;
  while (place.childNodes.length > same) place.lastChild.remove();
  for (const block of now.slice(same)) place.append(element(block, 0));
  place.shown = now.map((block) => block.raw);
}
