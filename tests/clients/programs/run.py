"""Run the checks of a program in the environment of its client:  python run.py PROGRAM SETTING

A check is a function named `check_...` that takes a Setting. One JSON line a check: its name, and why it
failed, or null.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import traceback
from pathlib import Path


def main() -> None:
    program, setting = Path(sys.argv[1]), sys.argv[2]
    sys.path.insert(0, str(program.parent))
    module_of = importlib.util.spec_from_file_location(program.stem, program)
    assert module_of is not None and module_of.loader is not None
    module = importlib.util.module_from_spec(module_of)
    sys.modules[program.stem] = module
    from setting import setting_of

    given = setting_of(setting)
    module_of.loader.exec_module(module)
    for name, check in vars(module).copy().items():
        if name.startswith("check_") and getattr(check, "__module__", None) == program.stem:
            try:
                check(given)
                error = None
            except Exception:
                error = traceback.format_exc()
            print("RESULT " + json.dumps({"name": name, "error": error}), flush=True)


if __name__ == "__main__":
    main()
