"""The Bedrock Runtime API: InvokeModel, Converse, both streamed, and CountTokens, with AWS's signatures."""

from publius.serve.bedrock.errors import error_response
from publius.serve.bedrock.routes import router

__all__ = ["error_response", "router"]
