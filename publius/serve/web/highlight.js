// A little colour for code: comments, strings, numbers, words of the language. No more than helps the eye.

import { h } from "./dom.js";

const words = (text) => new Set(text.split(" "));
const C_WORDS = words(
  "as async await bool break case catch char class const continue def default defer do double else enum export extends false final finally float fn for from func function go if impl import in instanceof int interface let long loop match mod module mut namespace new nil null of package private protected pub public return select self static struct super switch template this throw trait true try type typedef typeof undefined unsafe use using var void where while yield",
);
const HASH_WORDS = words(
  "and as assert async await break case class continue def del do done elif else end esac except False false fi finally for from function global if import in is lambda let local match module next nil None nonlocal not null or pass raise require return self then True true try unless until when while with yield",
);
const SQL_WORDS = words(
  "all alter and as asc between by case create delete desc distinct drop else end exists from full group having in index inner insert into is join left like limit not null on or order outer primary right select set table then union unique update values view when where with",
);
const STRING = `"(?:[^"\\\\\\n]|\\\\.)*"?|'(?:[^'\\\\\\n]|\\\\.)*'?`;
const NUMBER = "\\b(?:0x[\\da-fA-F]+|\\d[\\d_]*(?:\\.\\d+)?(?:[eE][-+]?\\d+)?)\\b";
const NAME = "[A-Za-z_$][\\w$]*";

const family = (comment, string, known, fold = false) => ({
  pattern: new RegExp(
    `(?<comment>${comment})|(?<string>${string})|(?<number>${NUMBER})|(?<name>${NAME})`,
    "g",
  ),
  known,
  fold,
});
const C = family("//[^\\n]*|/\\*[^]*?(?:\\*/|$)", `\`(?:[^\`\\\\]|\\\\.)*\`?|${STRING}`, C_WORDS);
const HASH = family("#[^\\n]*", `"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|${STRING}`, HASH_WORDS);
const SQL = family("--[^\\n]*|/\\*[^]*?(?:\\*/|$)", STRING, SQL_WORDS, true);
const MARKUP = family("<!--[^]*?(?:-->|$)", STRING, new Set());
const CSS = family("/\\*[^]*?(?:\\*/|$)", STRING, new Set());

const FAMILIES = new Map([
  ...[
    "js",
    "javascript",
    "mjs",
    "ts",
    "typescript",
    "jsx",
    "tsx",
    "json",
    "c",
    "h",
    "cpp",
    "c++",
    "cc",
    "cs",
    "csharp",
    "go",
    "java",
    "kotlin",
    "php",
    "rs",
    "rust",
    "scala",
    "swift",
    "dart",
    "zig",
  ].map((n) => [n, C]),
  ...[
    "py",
    "python",
    "python3",
    "sh",
    "bash",
    "shell",
    "zsh",
    "rb",
    "ruby",
    "yaml",
    "yml",
    "toml",
    "r",
    "julia",
    "make",
    "dockerfile",
    "perl",
  ].map((n) => [n, HASH]),
  ["sql", SQL],
  ...["html", "xml", "svg"].map((n) => [n, MARKUP]),
  ...["css", "scss"].map((n) => [n, CSS]),
]);

/** Nodes of a piece of code; plain text for a language that is not known. */
export function highlight(code, language) {
  const kind = FAMILIES.get(language.toLowerCase());
  if (!kind) return [code];
  const nodes = [];
  let done = 0;
  for (const match of code.matchAll(kind.pattern)) {
    const { comment, string, number, name } = match.groups;
    const known = name !== undefined && kind.known.has(kind.fold ? name.toLowerCase() : name);
    const colour =
      comment !== undefined
        ? "comment"
        : string !== undefined
          ? "string"
          : number !== undefined
            ? "number"
            : known
              ? "word"
              : null;
    if (!colour) continue;
    if (match.index > done) nodes.push(code.slice(done, match.index));
    nodes.push(h("span", { class: `t-${colour}` }, match[0]));
    done = match.index + match[0].length;
  }
  if (done < code.length) nodes.push(code.slice(done));
  return nodes;
}
