"""The job templates parse, and every option in their commands exists in torchrun and in `publius run`."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import typer.main
import yaml
from torch.distributed.run import get_args_parser

from publius.cli import app

DEPLOY = Path(__file__).parents[1] / "deploy"
SLURM = {"SLURM_NNODES": "4", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "7", "first": "node1"}


def check(arguments):
    """Both parsers take the command; what torchrun was told."""
    told = get_args_parser().parse_args(arguments)
    assert told.module and told.training_script == "publius.cli" and int(told.max_restarts) == 0
    verb, *rest = told.training_script_args
    command = typer.main.get_command(app).commands[verb]
    context = command.make_context("publius", list(rest))
    assert verb == "run" and context.params["settings"] == ["pretrain.parallel.tensor=8"]
    return told


def test_kubernetes():
    service, job = yaml.safe_load_all((DEPLOY / "kubernetes" / "train-job.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["torchrun"]
    told = check(container["args"])
    assert int(told.nnodes) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert int(told.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    name, port = told.rdzv_endpoint.split(":")
    assert name == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert int(port) == service["spec"]["ports"][0]["port"]
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_slurm():
    path = DEPLOY / "slurm" / "train.sbatch"
    subprocess.run(["bash", "-n", str(path)], check=True)
    lines = path.read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("srun ")]
    words = shlex.split(line)
    words = words[words.index("torchrun") + 1 : words.index("$@")]
    for name, value in SLURM.items():
        words = [word.replace(f"${name}", value) for word in words]
    assert not any("$" in word for word in words)
    told = check([*words, "my_recipe.py:my_recipe", "--set", "pretrain.parallel.tensor=8"])
    assert (told.nnodes, told.nproc_per_node, told.rdzv_endpoint) == ("4", "8", "node1:29400")
    assert any(line.startswith("#SBATCH --signal=TERM@") for line in lines)


def test_slurm_wants_a_home():
    done = subprocess.run(
        ["bash", str(DEPLOY / "slurm" / "train.sbatch"), "x"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "all nodes share" in done.stderr


@pytest.mark.parametrize("option", ["--nproc", "--set", "--home"])
def test_the_parser_can_refuse(option):
    assert any(option in parameter.opts for parameter in typer.main.get_command(app).commands["run"].params)
    with pytest.raises(SystemExit):
        get_args_parser().parse_args(["--no-such-option", "x"])
