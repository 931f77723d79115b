"""Make the environments of the clients that cannot share ours:  python tests/clients/make_envs.py [NAME ...]

They lie in the folder PUBLIUS_CLIENT_ENVS (default build/clients): one virtual environment for each Python
client, one folder with `node_modules` for the npm one. Without a NAME all are made; one that is there is left
as it is. Needs the package index and npm's; takes minutes and about 3 GB, most of it PyTorch for lm-eval.

The newest `anthropic`, `openai` and `boto3` are in the development environment, and tested in every run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ENVS: dict[str, list[list[str]]] = {
    "anthropic-0x": [["anthropic<1"]],
    "langchain": [["langchain-anthropic"]],
    "litellm": [["litellm", "boto3"]],
    "inspect": [["inspect_ai", "anthropic", "openai"]],
    # PyTorch first, where pip finds one without CUDA (PIP_FIND_LINKS) that one: it computes nothing here
    "lm-eval": [["torch==2.13.0"], ["lm_eval[api]"]],
}
"""Name of an environment -> what is installed into it, one pip command after another."""
PACKAGES = {"npm": ["@anthropic-ai/sdk"]}
"""Name of a folder -> npm packages."""
DONE = "made"
"""The file that says an environment is whole."""


def folder() -> Path:
    """Where they lie."""
    return Path(os.environ.get("PUBLIUS_CLIENT_ENVS", Path(__file__).parents[2] / "build" / "clients"))


def make(name: str) -> None:
    """Make one environment, unless it is there."""
    at = folder() / name
    if (at / DONE).exists():
        return
    print(f"making {name}", file=sys.stderr, flush=True)
    if name in ENVS:
        venv.create(at, with_pip=True, clear=True)
        for wanted in ENVS[name]:
            subprocess.run(
                [str(at / "bin" / "python"), "-m", "pip", "install", "--quiet", *wanted], check=True
            )
    else:
        at.mkdir(parents=True, exist_ok=True)
        (at / "package.json").write_text('{"name": "publius-clients", "private": true}\n')
        command = ["npm", "install", "--no-audit", "--no-fund", "--silent", *PACKAGES[name]]
        subprocess.run(command, cwd=at, check=True)
    (at / DONE).touch()


def main() -> None:
    """Make what is asked for."""
    names = sys.argv[1:] or [*ENVS, *PACKAGES]
    unknown = [name for name in names if name not in ENVS and name not in PACKAGES]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; there are {', '.join([*ENVS, *PACKAGES])}")
    for name in names:
        make(name)


if __name__ == "__main__":
    main()
