"""`python -m publius.cli`, which torchrun starts."""

from publius.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
