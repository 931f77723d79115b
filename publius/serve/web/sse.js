// Server-sent events read from a fetch body (the browser's EventSource can neither POST nor send a key).

/** Splits a stream of text into events, however the text was cut. */
export class Parser {
  #buffer = "";
  #event = "";
  #data = [];
  #begun = false;

  /** Take more text; gives the events it completes as `{event, data}`. */
  push(text) {
    this.#buffer += text;
    if (!this.#begun && this.#buffer) {
      this.#begun = true;
      if (this.#buffer.startsWith("\ufeff")) this.#buffer = this.#buffer.slice(1);
    }
    const events = [];
    let start = 0;
    for (;;) {
      const end = this.#lineEnd(start);
      if (end < 0) break;
      const line = this.#buffer.slice(start, end);
      start = this.#buffer[end] === "\r" && this.#buffer[end + 1] === "\n" ? end + 2 : end + 1;
      this.#line(line, events);
    }
    this.#buffer = this.#buffer.slice(start);
    return events;
  }

  #lineEnd(start) {
    for (let i = start; i < this.#buffer.length; i++) {
      if (this.#buffer[i] === "\n") return i;
      // a return at the very end may be half of a pair
      if (this.#buffer[i] === "\r") return i + 1 < this.#buffer.length ? i : -1;
    }
    return -1;
  }

  #line(line, events) {
    if (line === "") {
      if (this.#data.length) events.push({ event: this.#event || "message", data: this.#data.join("\n") });
      this.#event = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "event") this.#event = value;
    else if (field === "data") this.#data.push(value);
  }
}

/** The events of a body, as they come. */
export async function* events(body) {
  const parser = new Parser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
