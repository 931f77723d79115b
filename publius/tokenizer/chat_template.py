"""The Jinja chat template that travels with a checkpoint, for `transformers`, vLLM and others.

It renders the same ids as `Renderer`, from either message shape: ours (content blocks of type text,
thinking, tool_use, tool_result) or the OpenAI shape (`tool_calls`, `reasoning_content`, role `tool`).
Messages of the system (or developer) before the first other one are the conversation's system; later ones
are turns, where they stand. `enable_thinking` is true (think), false (reply at once) or absent (the model
decides). Arguments given as text are copied as they are: only written compactly are they the Renderer's.

One thing it cannot do: a template joins strings, so a program that feeds it user text holding the
literal "<|end|>" gets the special token. `Renderer` joins ids and never does.
"""

from __future__ import annotations

__all__ = ["CHAT_TEMPLATE"]

CHAT_TEMPLATE = r"""
{{- '<|bos|>' -}}
{%- set turn = namespace(side='', head=true) -%}
{%- for message in messages -%}
  {%- if message['role'] not in ['system', 'developer'] -%}{%- set turn.head = false -%}
  {%- elif not turn.head -%}
  {%- elif message['content'] is string -%}
    {%- if message['content'] -%}{{- '<|system|>' ~ message['content'] ~ '<|end|>' -}}{%- endif -%}
  {%- elif message['content'] -%}
    {{- '<|system|>' -}}
    {%- for block in message['content'] -%}{{- block['text'] -}}{%- endfor -%}
    {{- '<|end|>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if tools -%}
  {{- '<|tools|>' -}}
  {%- for tool in tools -%}
    {%- set spec = tool['function'] if tool['function'] is defined else tool -%}
    {%- set schema = spec['input_schema'] if spec['input_schema'] is defined else spec['parameters'] -%}
    {{- {'name': spec['name'], 'description': spec['description'] | default(''),
         'input_schema': schema | default({})} | tojson(separators=(',', ':')) -}}
    {%- if not loop.last -%}{{- '\n' -}}{%- endif -%}
  {%- endfor -%}
  {{- '<|end|>' -}}
{%- endif -%}
{%- set turn.head = true -%}
{%- for message in messages -%}
  {%- set by_system = message['role'] in ['system', 'developer'] -%}
  {%- if not by_system -%}{%- set turn.head = false -%}{%- endif -%}
  {%- if not turn.head -%}
  {%- set side = 'system' if by_system else 'assistant' if message['role'] == 'assistant' else 'user' -%}
  {%- if side != turn.side -%}
    {%- if turn.side -%}{{- '<|end|>' -}}{%- endif -%}
    {{- '<|' ~ side ~ '|>' -}}
    {%- set turn.side = side -%}
  {%- endif -%}
  {%- set reasoning = message['reasoning_content'] or message['thinking'] -%}
  {%- if reasoning -%}{{- '<|think|>' ~ reasoning ~ '<|/think|>' -}}{%- endif -%}
  {%- if message['role'] == 'tool' -%}{{- '<|tool_result|>' -}}{%- endif -%}
  {%- if message['content'] is string -%}
    {{- message['content'] -}}
  {%- elif message['content'] -%}
    {%- for block in message['content'] -%}
      {%- if block['type'] == 'text' -%}{{- block['text'] -}}
      {%- elif block['type'] == 'thinking' -%}{{- '<|think|>' ~ block['thinking'] ~ '<|/think|>' -}}
      {%- elif block['type'] == 'tool_use' -%}
        {{- '<|tool_use|>{"name":' ~ (block['name'] | tojson) ~ ',"input":'
            ~ (block['input'] | tojson(separators=(',', ':'))) ~ '}<|/tool_use|>' -}}
      {%- elif block['type'] == 'tool_result' -%}
        {{- '<|tool_result|>' ~ block['content'] ~ '<|/tool_result|>' -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- if message['role'] == 'tool' -%}{{- '<|/tool_result|>' -}}{%- endif -%}
  {%- if message['tool_calls'] -%}
    {%- for tool_call in message['tool_calls'] -%}
      {%- set call = tool_call['function'] if tool_call['function'] is defined else tool_call -%}
      {%- set given = call['arguments'] -%}
      {{- '<|tool_use|>{"name":' ~ (call['name'] | tojson) ~ ',"input":'
          ~ (given if given is string else given | tojson(separators=(',', ':'))) ~ '}<|/tool_use|>' -}}
    {%- endfor -%}
  {%- endif -%}
  {%- endif -%}
{%- endfor -%}
{%- if turn.side -%}{{- '<|end|>' -}}{%- endif -%}
{%- if add_generation_prompt -%}
  {{- '<|assistant|>' -}}
  {%- if enable_thinking is defined and enable_thinking is true -%}{{- '<|think|>' -}}
  {%- elif enable_thinking is defined and enable_thinking is false -%}{{- '<|think|><|/think|>' -}}
  {%- endif -%}
{%- endif -%}
""".strip()
