// A conversation as a tree: every edit and every new attempt is a branch, and nothing said is lost.
//
// {id, title, created, updated, system, nodes: {id: node}, chosen: {parent id: child id}}; a node is
// {id, parent, role, content, at, ...what is known of a reply}. The roots' parent is "".

// not randomUUID, which a page served over plain HTTP from another machine does not have
const fresh = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join(
    "",
  );

/** An empty conversation. */
export function begin(system = "") {
  const now = Date.now();
  return { id: fresh(), title: "", created: now, updated: now, system, nodes: {}, chosen: {} };
}

/** Add a node and make it the chosen one among its siblings. */
export function add(conversation, parent, role, content, more = {}) {
  const node = { id: fresh(), parent, role, content, at: Date.now(), ...more };
  conversation.nodes[node.id] = node;
  conversation.chosen[parent] = node.id;
  conversation.updated = node.at;
  return node;
}

/** Take a node without children out again. */
export function drop(conversation, node) {
  delete conversation.nodes[node.id];
  const left = siblings(conversation, node.parent);
  if (left.length) conversation.chosen[node.parent] = left.at(-1).id;
  else delete conversation.chosen[node.parent];
}

/** The children of a parent, oldest first. */
export const siblings = (conversation, parent) =>
  Object.values(conversation.nodes).filter((node) => node.parent === parent);

/** The nodes of the branch that is chosen, from the first on. */
export function path(conversation) {
  const nodes = [];
  for (let id = conversation.chosen[""]; id; id = conversation.chosen[id]) nodes.push(conversation.nodes[id]);
  return nodes;
}

/** The nodes from the first up to and with this one. */
export function upTo(conversation, id) {
  const nodes = [];
  for (let node = conversation.nodes[id]; node; node = conversation.nodes[node.parent]) nodes.unshift(node);
  return nodes;
}

const sendable = (block, answered) => {
  if (block.type === "tool_use") return answered.has(block.id);
  if (block.type === "text") return block.text.trim() !== "";
  // thinking that was cut off has no signature, and the server would refuse it
  return block.type !== "thinking" || Boolean(block.signature);
};

/** The messages a request has: only what the API takes back, nothing empty. */
export function messages(nodes) {
  const found = [];
  // a call whose result was lost (the page was closed) would make every further request a bad one
  const answered = new Set(nodes.flatMap(({ content }) => content.map((block) => block.tool_use_id)));
  for (const { role, content } of nodes) {
    const blocks = content
      .filter((block) => sendable(block, answered))
      .map((block) => {
        const {
          type,
          text,
          thinking,
          signature,
          data,
          id,
          name,
          input,
          tool_use_id,
          content: result,
          is_error,
        } = block;
        if (type === "text") return { type, text };
        if (type === "thinking") return { type, thinking, signature };
        if (type === "tool_use") return { type, id, name, input };
        if (type === "tool_result")
          return { type, tool_use_id, content: result, ...(is_error ? { is_error } : {}) };
        return { type, data };
      });
    if (blocks.length) found.push({ role, content: blocks });
  }
  return found;
}

/** All the text of a node. */
export const textOf = (node) =>
  node.content
    .filter((block) => block.type === "text")
    .map((block) => block.text)
    .join("\n\n");

/** What it is called: its title, or how it begins. */
export function nameOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = path(conversation)[0];
  const words = first ? textOf(first).replace(/\s+/g, " ").trim() : "";
  return words.length > 60 ? `${words.slice(0, 59).trimEnd()}…` : words || "New conversation";
}

/** A conversation for export: the chosen branch as messages of the API, and the whole tree. */
export function exported(conversation) {
  return {
    title: nameOf(conversation),
    system: conversation.system,
    messages: messages(path(conversation)),
    conversation,
  };
}
