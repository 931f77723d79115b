// Where conversations are kept: this browser's IndexedDB, and nowhere else.

const NAME = "publius";
const TABLE = "conversations";

const done = (ask) =>
  new Promise((resolve, reject) => {
    ask.onsuccess = () => resolve(ask.result);
    ask.onerror = () => reject(ask.error);
  });

async function open() {
  const ask = indexedDB.open(NAME, 1);
  ask.onupgradeneeded = () => ask.result.createObjectStore(TABLE, { keyPath: "id" });
  return done(ask);
}

/** As it is after its page was closed: a reply that was still to come comes no more. */
function settled(conversation) {
  for (const node of Object.values(conversation.nodes)) {
    if (!node.pending) continue;
    delete node.pending;
    node.stopReason = "stopped";
  }
  return conversation;
}

/** All conversations; in a browser that keeps nothing, only as long as the page lives (`lasting` is then false). */
export class Shelf {
  lasting = true;
  #database = null;
  #here = new Map();

  /** Read what is kept, newest first. */
  async load() {
    try {
      this.#database = await open();
      for (const item of await done(this.#table("readonly").getAll())) this.#here.set(item.id, settled(item));
    } catch {
      this.lasting = false;
    }
    return this.all();
  }

  #table(mode) {
    return this.#database.transaction(TABLE, mode).objectStore(TABLE);
  }

  /** Every conversation, newest first. */
  all() {
    return [...this.#here.values()].sort((a, b) => b.updated - a.updated);
  }

  /** One of them. */
  get(id) {
    return this.#here.get(id);
  }

  /** Keep it as it is now. */
  async keep(conversation) {
    this.#here.set(conversation.id, conversation);
    await this.#try((table) => table.put(conversation));
  }

  /** Forget it. */
  async remove(id) {
    this.#here.delete(id);
    await this.#try((table) => table.delete(id));
  }

  async #try(change) {
    if (!this.lasting) return;
    try {
      await done(change(this.#table("readwrite")));
    } catch {
      this.lasting = false; // the disk is full, or the browser has taken the database away
    }
  }
}
