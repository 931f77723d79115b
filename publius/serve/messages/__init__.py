"""The Messages API: the native dialect, from which the others are derived."""

from publius.serve.messages.errors import error_response
from publius.serve.messages.routes import router

__all__ = ["error_response", "router"]
