"""`publius` and `python -m publius`: the command line, which takes seconds to import.

An interrupt in these seconds is a user's, too. It ends the process from the signal itself: as an exception
it could come up inside any of the libraries, some of which take it for a failure of their own.
"""

from __future__ import annotations

import importlib
import os
import signal
from typing import NoReturn

__all__ = ["main"]


def main() -> None:
    """Run the command line, as `publius.cli.main`."""
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a shell's `&` ignores it
    if heard:
        signal.signal(signal.SIGINT, _stop)
    run = importlib.import_module("publius.cli").main
    if heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _stop(number: int, frame: object) -> NoReturn:
    os.write(2, b"stopped\n")
    os._exit(130)  # nothing has been begun


if __name__ == "__main__":
    main()
