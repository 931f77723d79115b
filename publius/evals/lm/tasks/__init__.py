"""Task definitions for lm-eval, word for word its own, for questions that are read from a file."""
