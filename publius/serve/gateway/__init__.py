"""The gateway: one address in front of several servers; a conversation goes to the one that has read it."""

from publius.serve.gateway.app import Gateway, GatewayConfig
from publius.serve.gateway.run import run_gateway

__all__ = ["Gateway", "GatewayConfig", "run_gateway"]
