// Sums, without eval: a reader of + - * / ^ % and brackets, exact on whole numbers of any size.

const FUNCTIONS = {
  sqrt: Math.sqrt,
  abs: Math.abs,
  round: Math.round,
  floor: Math.floor,
  ceil: Math.ceil,
  ln: Math.log,
  log: Math.log10,
  exp: Math.exp,
  sin: Math.sin,
  cos: Math.cos,
  tan: Math.tan,
};
const CONSTANTS = { pi: Math.PI, e: Math.E };
const TOKEN = /\s*(?:(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+)|([a-zA-Z]+)|(\*\*|[-+*/%^()×÷−]))/y;
const SAME = { "×": "*", "÷": "/", "−": "-", "**": "^" };
const BIGGEST = 4000;

function tokens(text) {
  const found = [];
  TOKEN.lastIndex = 0;
  while (text.slice(TOKEN.lastIndex).trim()) {
    const from = TOKEN.lastIndex;
    const match = TOKEN.exec(text);
    if (!match) throw new Error(`cannot read ${JSON.stringify(text.slice(from).trim().slice(0, 20))}`);
    const [, number, name, sign] = match;
    if (number) found.push(/^\d+$/.test(number) ? BigInt(number) : Number(number));
    else found.push(name ? name.toLowerCase() : (SAME[sign] ?? sign));
  }
  return found;
}

const whole = (a, b) => typeof a === "bigint" && typeof b === "bigint";

function apply(sign, a, b) {
  if ((sign === "/" || sign === "%") && Number(b) === 0) throw new Error("division by zero");
  if (whole(a, b)) {
    if (sign === "+") return a + b;
    if (sign === "-") return a - b;
    if (sign === "*") return a * b;
    if (sign === "%") return a % b;
    if (sign === "/" && a % b === 0n) return a / b;
    if (sign === "^" && b >= 0n) {
      if (a.toString().length * Number(b) > BIGGEST) throw new Error("the result is too large");
      return a ** b;
    }
  }
  const [x, y] = [Number(a), Number(b)];
  return { "+": x + y, "-": x - y, "*": x * y, "/": x / y, "%": x % y, "^": x ** y }[sign];
}

class Reader {
  at = 0;

  constructor(text) {
    this.tokens = tokens(text);
  }

  take(...signs) {
    return signs.includes(this.tokens[this.at]) ? this.tokens[this.at++] : null;
  }

  sum(depth) {
    let value = this.product(depth);
    for (let sign; (sign = this.take("+", "-"));) value = apply(sign, value, this.product(depth));
    return value;
  }

  product(depth) {
    let value = this.signed(depth);
    for (let sign; (sign = this.take("*", "/", "%"));) value = apply(sign, value, this.signed(depth));
    return value;
  }

  signed(depth) {
    if (depth > 200) throw new Error("too deeply nested");
    if (this.take("-")) return apply("*", -1n, this.signed(depth + 1));
    if (this.take("+")) return this.signed(depth + 1);
    const base = this.atom(depth);
    return this.take("^") ? apply("^", base, this.signed(depth + 1)) : base;
  }

  atom(depth) {
    const token = this.tokens[this.at++];
    if (typeof token === "bigint" || typeof token === "number") return token;
    if (token === "(") return this.closed(depth);
    if (Object.hasOwn(CONSTANTS, token)) return CONSTANTS[token];
    if (Object.hasOwn(FUNCTIONS, token)) {
      if (!this.take("(")) throw new Error(`${token} needs brackets`);
      const value = this.closed(depth);
      return whole(value, value) && ["abs", "round", "floor", "ceil"].includes(token)
        ? token === "abs" && value < 0n
          ? -value
          : value
        : FUNCTIONS[token](Number(value));
    }
    throw new Error(
      token === undefined ? "the sum ends too early" : `cannot read ${JSON.stringify(String(token))}`,
    );
  }

  closed(depth) {
    const value = this.sum(depth + 1);
    if (!this.take(")")) throw new Error("a bracket is not closed");
    return value;
  }
}

/**
 * The value of a sum, written out: "34 * 12" -> "408".
 * @throws {Error} saying what cannot be read.
 */
export function calculate(text) {
  if (text.length > 1000) throw new Error("the sum is too long");
  const reader = new Reader(text);
  const value = reader.sum(0);
  if (reader.at < reader.tokens.length)
    throw new Error(`cannot read ${JSON.stringify(String(reader.tokens[reader.at]))}`);
  if (typeof value === "bigint") return value.toString();
  if (!Number.isFinite(value)) throw new Error("there is no such number");
  return String(Number(value.toPrecision(15)));
}
