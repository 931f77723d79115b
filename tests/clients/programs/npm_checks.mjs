// The npm package @anthropic-ai/sdk:  node npm_checks.mjs SETTING FOLDER_WITH_NODE_MODULES
// A check is a function named `check_...`; one JSON line a check, as run.py prints.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const [url, key, model, context] = JSON.parse(process.argv[2]);
const from = createRequire(`${process.argv[3]}/package.json`);
const Anthropic = from('@anthropic-ai/sdk').default;
const { betaTool, betaJSONSchemaOutputFormat } = from('@anthropic-ai/sdk/helpers/beta/json-schema');

const client = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0 });
const ask = [{ role: 'user', content: 'Who lives at the mill?' }];
const schema = {
  type: 'object',
  properties: { place: { enum: ['mill', 'river'] }, days: { type: 'integer', enum: [1, 2, 3] } },
  required: ['place', 'days'],
  additionalProperties: false,
};
const weather = { name: 'weather', description: 'the weather at a place', input_schema: schema };
const clock = { name: 'clock', description: 'what time it is', input_schema: { type: 'object', properties: {} } };
const greedy = (more = {}) =>
  client.messages.create({ model, max_tokens: 40, messages: ask, temperature: 0, ...more });
const textOf = (message) => message.content.map((block) => (block.type === 'text' ? block.text : '')).join('');
const sane = (input) => {
  assert.deepEqual(Object.keys(input).sort(), ['days', 'place']);
  assert.ok(['mill', 'river'].includes(input.place) && [1, 2, 3].includes(input.days));
};

async function check_create() {
  const { data, response } = await client.messages
    .create({ model, max_tokens: 20, messages: ask })
    .withResponse();
  assert.match(data.id, /^msg_/);
  assert.equal(data.model, model);
  assert.ok(['end_turn', 'max_tokens'].includes(data.stop_reason));
  assert.ok('stop_sequence' in data && data.stop_sequence === null);
  assert.equal(data._request_id, response.headers.get('request-id'));
  for (const name of ['input_tokens', 'output_tokens', 'cache_read_input_tokens', 'cache_creation_input_tokens'])
    assert.ok(Number.isInteger(data.usage[name]), name);
}

async function check_raw_stream() {
  const whole = await greedy();
  const stream = await greedy({ stream: true });
  const kinds = [];
  let text = '';
  for await (const event of stream) {
    kinds.push(event.type);
    if (event.type === 'content_block_delta') text += event.delta.text;
  }
  assert.equal(text, textOf(whole));
  assert.equal(kinds[0], 'message_start');
  assert.deepEqual(kinds.slice(-2), ['message_delta', 'message_stop']);
}

async function check_stream_helper() {
  const whole = await greedy();
  let said = '';
  const stream = client.messages
    .stream({ model, max_tokens: 40, messages: ask, temperature: 0 })
    .on('text', (piece) => (said += piece));
  const final = await stream.finalMessage();
  assert.equal(said, textOf(whole));
  assert.equal(textOf(final), said);
  assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
  assert.equal(final.usage.input_tokens, whole.usage.input_tokens);
}

async function check_system_turns_and_prefill() {
  const whole = textOf(await greedy({ system: 'Speak of owls.' }));
  let cut = 8;
  while (/\s/.test(whole[cut - 1])) cut += 1;
  const begun = [...ask, { role: 'assistant', content: whole.slice(0, cut) }];
  const rest = await greedy({ system: 'Speak of owls.', messages: begun, max_tokens: 40 - cut });
  assert.equal(textOf(rest), whole.slice(cut));
  const turns = [...ask, { role: 'assistant', content: whole.trimEnd() || 'x' }, { role: 'user', content: 'And then?' }];
  assert.ok((await greedy({ messages: turns })).usage.input_tokens > 0);
}

async function check_stop_sequence() {
  const whole = textOf(await greedy());
  let at = 10;
  while (/\s/.test(whole[at]) || /\s/.test(whole[at + 1])) at += 1;
  const stop = whole.slice(at, at + 2);
  const cut = await greedy({ stop_sequences: [stop] });
  assert.equal(cut.stop_reason, 'stop_sequence');
  assert.equal(cut.stop_sequence, stop);
  assert.equal(textOf(cut), whole.slice(0, whole.indexOf(stop)));
}

async function check_tools() {
  for (const choice of [{ type: 'any' }, { type: 'tool', name: 'weather' }]) {
    const message = await greedy({ tools: [weather], tool_choice: choice, max_tokens: 150 });
    assert.equal(message.stop_reason, 'tool_use');
    const call = message.content.at(-1);
    sane(call.input);
    const result = { type: 'tool_result', tool_use_id: call.id, content: 'rain' };
    const turns = [...ask, { role: 'assistant', content: message.content }, { role: 'user', content: [result] }];
    assert.ok((await greedy({ tools: [weather], messages: turns })).content);
  }
  const none = await greedy({ tools: [weather], tool_choice: { type: 'none' } });
  assert.ok(none.content.every((block) => block.type !== 'tool_use'));
}

async function check_tools_stream() {
  const stream = client.messages.stream({
    model, max_tokens: 150, messages: ask, tools: [weather, clock], tool_choice: { type: 'tool', name: 'weather' },
  });
  let pieces = 0;
  stream.on('inputJson', () => (pieces += 1));
  sane((await stream.finalMessage()).content.at(-1).input);
  assert.ok(pieces > 1);
  const empty = client.messages.stream({
    model, max_tokens: 150, messages: ask, tools: [clock], tool_choice: { type: 'tool', name: 'clock' },
  });
  assert.equal(typeof (await empty.finalMessage()).content.at(-1).input, 'object');
}

async function check_tool_runner() {
  const seen = [];
  const tool = betaTool({
    name: 'weather', description: 'the weather at a place', inputSchema: schema,
    run: (input) => { seen.push(input); return 'rain'; },
  });
  const runner = client.beta.messages.toolRunner({
    model, max_tokens: 150, messages: ask, tools: [tool], tool_choice: { type: 'any' }, max_iterations: 3,
  });
  const counts = [];
  for await (const message of runner) counts.push(message.usage.input_tokens);
  assert.equal(counts.length, 3);
  assert.ok(counts[1] > counts[0] && counts[2] > counts[1], `history was lost: ${counts}`);
  seen.forEach(sane);
}

async function check_structured_output() {
  const message = await client.beta.messages.parse({
    model, max_tokens: 150, messages: ask, output_format: betaJSONSchemaOutputFormat(schema),
  });
  sane(message.parsed_output);
}

async function check_thinking() {
  const thinking = { type: 'enabled', budget_tokens: 1024 };
  const stream = client.messages.stream({ model, max_tokens: 1100, messages: ask, thinking });
  let signed = 0;
  stream.on('signature', () => (signed += 1));
  const message = await stream.finalMessage();
  const [first, ...rest] = message.content;
  assert.equal(first.type, 'thinking');
  assert.ok(first.signature && signed === 1);
  const turns = (content) => [...ask, { role: 'assistant', content }, { role: 'user', content: 'And then?' }];
  const again = { model, max_tokens: 1100, thinking };
  assert.ok((await client.messages.create({ ...again, messages: turns(message.content) })).content);
  const bad = [{ ...first, signature: 'AAAA' }, ...rest];
  await assert.rejects(client.messages.create({ ...again, messages: turns(bad) }), Anthropic.BadRequestError);
}

async function check_count_tokens() {
  for (const more of [{}, { system: 'Speak of owls.' }, { tools: [weather] }, { tools: [] }]) {
    const counted = await client.messages.countTokens({ model, messages: ask, ...more });
    const { usage } = await greedy({ max_tokens: 1, ...more });
    assert.equal(counted.input_tokens,
      usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens);
  }
}

async function check_cache() {
  const text = `${Math.random()} ` + 'The owl sleeps. '.repeat(350);
  const system = [{ type: 'text', text, cache_control: { type: 'ephemeral' } }];
  const first = (await greedy({ system, max_tokens: 2 })).usage;
  const again = (await greedy({ system, max_tokens: 2 })).usage;
  assert.ok(first.cache_creation_input_tokens > 0 && first.cache_read_input_tokens === 0);
  assert.ok(again.cache_read_input_tokens > 0);
}

async function check_models() {
  const ids = [];
  for await (const one of client.models.list({ limit: 1 })) ids.push(one.id);
  assert.ok(ids.includes(model));
  assert.equal((await client.models.retrieve(model)).type, 'model');
  await assert.rejects(client.models.retrieve('none-such'), Anthropic.NotFoundError);
}

async function check_batches() {
  const params = { model, max_tokens: 5, messages: ask };
  const requests = ['a', 'b'].map((custom_id) => ({ custom_id, params }));
  let batch = await client.messages.batches.create({ requests });
  while (batch.processing_status !== 'ended') {
    await new Promise((done) => setTimeout(done, 100));
    batch = await client.messages.batches.retrieve(batch.id);
  }
  const found = [];
  for await (const line of await client.messages.batches.results(batch.id)) found.push(line);
  assert.deepEqual(found.map((line) => line.custom_id).sort(), ['a', 'b']);
  assert.ok(found.every((line) => line.result.type === 'succeeded'));
}

async function check_errors() {
  const wrong = new Anthropic({ baseURL: url, apiKey: 'wrong', maxRetries: 0 });
  const one = { model, max_tokens: 5, messages: ask };
  await assert.rejects(wrong.messages.create(one), Anthropic.AuthenticationError);
  await assert.rejects(greedy({ model: 'none-such' }), (error) => {
    assert.ok(error instanceof Anthropic.NotFoundError && error.message.includes('none-such'));
    assert.equal(error.requestID, error.error.request_id);
    return true;
  });
  await assert.rejects(
    greedy({ messages: [{ role: 'user', content: 'a'.repeat(context + 10) }] }),
    /prompt is too long: \d+ tokens > \d+ maximum/,
  );
  const source = { type: 'url', url: 'https://example.org/owl.png' };
  await assert.rejects(
    greedy({ messages: [{ role: 'user', content: [{ type: 'image', source }] }] }), /image/);
}

async function check_a_stream_is_aborted() {
  const stream = client.messages.stream({ model, max_tokens: 3000, messages: ask });
  stream.once('text', () => stream.abort());
  await assert.rejects(stream.finalMessage(), Anthropic.APIUserAbortError);
  assert.ok((await greedy()).content);
}

const all = {
  check_create, check_raw_stream, check_stream_helper, check_system_turns_and_prefill, check_stop_sequence,
  check_tools, check_tools_stream, check_tool_runner, check_structured_output, check_thinking,
  check_count_tokens, check_cache, check_models, check_batches, check_errors, check_a_stream_is_aborted,
};
for (const [name, check] of Object.entries(all)) {
  let error = null;
  try {
    await check();
  } catch (caught) {
    error = String(caught?.stack ?? caught);
  }
  console.log('RESULT ' + JSON.stringify({ name, error }));
}
