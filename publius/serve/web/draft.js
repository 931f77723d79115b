// A reply as it grows out of the events of a stream.

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The reply so far: blocks, why it stopped, usage, and how fast it came. */
export class Draft {
  content = [];
  usage = {};
  model = "";
  stopReason = null;
  stopDetails = null;
  requestId = "";
  done = false;
  #partial = "";
  #began = 0;
  #last = 0;

  /** Take one event of the stream. */
  apply(event) {
    const block = this.content[event.index];
    switch (event.type) {
      case "message_start":
        this.#began = performance.now();
        this.model = event.message.model;
        this.usage = { ...event.message.usage };
        break;
      case "content_block_start":
        this.content[event.index] = { ...event.content_block, open: true };
        this.#partial = "";
        break;
      case "content_block_delta":
        this.#delta(block, event.delta);
        break;
      case "content_block_stop":
        if (block.type === "tool_use") {
          const input = parsed(this.#partial || "{}");
          if (input === undefined) break; // cut off by the limit of tokens: it stays open, and is not kept
          block.input = input;
          delete block.written;
        }
        delete block.open;
        break;
      case "message_delta":
        this.stopReason = event.delta.stop_reason;
        this.stopDetails = event.delta.stop_details ?? null;
        Object.assign(this.usage, event.usage);
        break;
      case "message_stop":
        this.done = true;
    }
  }

  #delta(block, delta) {
    this.#last = performance.now();
    if (delta.type === "text_delta") block.text += delta.text;
    else if (delta.type === "thinking_delta") block.thinking += delta.thinking;
    else if (delta.type === "signature_delta") block.signature = delta.signature;
    else if (delta.type === "input_json_delta") block.written = this.#partial += delta.partial_json;
  }

  /** Output tokens a second since the reply began; null when it all came at once. */
  get speed() {
    const seconds = (this.#last - this.#began) / 1000;
    return seconds > 0.01 && this.usage.output_tokens > 0 ? this.usage.output_tokens / seconds : null;
  }

  /** What was whole, when the stream was cut: text as far as it came, no half of a tool call. */
  kept() {
    return this.content
      .filter((block) => block && !(block.type === "tool_use" && block.open))
      .map(({ open: _open, ...block }) => block);
  }
}
