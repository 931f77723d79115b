// Reads a growing reply out to those who hear the page: whole sentences, not every token.

import { say } from "./dom.js";

const PAUSE = 1500; // milliseconds at least between two announcements, so that none cuts the other off

/** One reply, told as it comes. */
export class Teller {
  #told = 0;
  #last = performance.now();

  constructor() {
    say("Publius is answering");
  }

  /** More of the text is there. */
  grow(text) {
    const now = performance.now();
    if (now - this.#last < PAUSE) return;
    const rest = text.slice(this.#told);
    const end = Math.max(...[". ", "! ", "? ", ": ", "\n"].map((mark) => rest.lastIndexOf(mark)));
    if (end < 0) return;
    say(rest.slice(0, end + 1));
    this.#told += end + 1;
    this.#last = now;
  }

  /** It is over; what has not been told yet follows, after `how` it ended. */
  end(text, how = "") {
    const rest = text.slice(this.#told).trim();
    say([how, rest && !this.#told && "Publius:", rest].filter(Boolean).join(" "));
  }
}
