"""Task collections: one module a source of questions."""

__all__: list[str] = []
