// The tools the page can run for the model: the calculator here, the others by asking the server.

import { json } from "./api.js";
import { calculate } from "./calculator.js";

/** What the server offers for a model: `{name, description, input_schema, runs}`; `runs` is "page" or "server". */
export async function offered(model) {
  const { tools } = await json(`/web/tools?model=${encodeURIComponent(model)}`);
  return tools;
}

/** As a request names them. */
export const specs = (tools) =>
  tools.map(({ name, description, input_schema }) => ({ name, description, input_schema }));

function here(name, input) {
  if (name !== "calculator") throw new Error(`this page has no tool ${name}`);
  // the field's name is the one the model was trained with
  return calculate(String(input.sum ?? input.expression ?? Object.values(input)[0] ?? ""));
}

/** Run one call; a failure is a result too, which the model gets to read. */
export async function run(call, tools, model, signal) {
  const tool = tools.find(({ name }) => name === call.name);
  const answer = { type: "tool_result", tool_use_id: call.id };
  try {
    if (tool?.runs === "server") {
      const { content, is_error } = await json(`/tools/${encodeURIComponent(call.name)}`, {
        method: "POST",
        body: { model, input: call.input },
        signal,
      });
      return { ...answer, content, is_error };
    }
    return { ...answer, content: here(call.name, call.input), is_error: false };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return { ...answer, content: error.message, is_error: true };
  }
}
