"""The server: the Messages, Bedrock Runtime and OpenAI APIs over one engine, with a web page."""
