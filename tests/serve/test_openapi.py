"""The description of the API."""

from __future__ import annotations

import json
import re

from tests.serve.serving import Spoken


def test_every_reference_points_somewhere_and_every_body_is_described(spoken: Spoken):
    document = spoken.send("GET", "/openapi.json").json()
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    references = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)))
    assert references and references <= known
    posts = {path: methods["post"] for path, methods in document["paths"].items() if "post" in methods}
    assert "/v1/messages" in posts
    for path in ("/v1/messages", "/v1/messages/count_tokens", "/v1/chat/completions", "/v1/completions"):
        schema = posts[path]["requestBody"]["content"]["application/json"]["schema"]
        assert "model" in schema["properties"], path
