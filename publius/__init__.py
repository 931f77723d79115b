"""Publius builds a Claude-style assistant, end to end, from your text and your constitution."""

__version__ = "0.1.0"
__all__ = ["__version__"]
