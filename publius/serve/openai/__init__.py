"""OpenAI's API: chat and text completions with log-probabilities, and the tokenizer lm-eval asks for."""

from publius.serve.openai.errors import error_response
from publius.serve.openai.routes import router

__all__ = ["error_response", "router"]
