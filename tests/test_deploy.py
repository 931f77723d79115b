"""The templates parse, and every option in their commands exists in torchrun and in our own program."""

import os
import shlex
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import typer.main
import yaml
from torch.distributed.run import get_args_parser

from publius.cli import app
from publius.serve.config import ServeConfig

DEPLOY = Path(__file__).parents[1] / "deploy"
SIGNERS = "/home/publius/.config/publius/signers.yaml"
"""Whose decisions count in a container: without it none does that was made elsewhere."""
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


def taken(arguments):
    """What the program's own parser makes of a container's arguments."""
    verb, *rest = arguments
    command = typer.main.get_command(app).commands[verb]
    return verb, command.make_context("publius", list(rest)).params


def hosts(backends):
    """(name, port) of each backend a gateway is told of."""
    split = [urlsplit(url) for url in backends]
    return [(one.hostname, one.port) for one in split]


@pytest.fixture
def variables(monkeypatch):
    """Compose's variables are filled in by compose; the program reads none of ours."""
    for name in ("PUBLIUS_STORE", "PUBLIUS_HOME", "PUBLIUS_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("variables")
def test_compose():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    verb, told = taken(services["gateway"]["command"])
    assert verb == "gateway" and told["host"] == "0.0.0.0"
    for name, port in hosts(told["backend"]):
        server = services[name]
        verb, served = taken(server["command"])
        assert verb == "serve" and served["port"] == port and served["host"] == "0.0.0.0"
        assert served["models"] == ["${MODEL:-quickstart}"]
        assert any(volume.endswith(f":{SIGNERS}:ro") for volume in server["volumes"])
        assert server["environment"]["PUBLIUS_STORE"].endswith("@store/publius")
        assert server["depends_on"]["store"]["condition"] == "service_healthy"
    assert [port.split(":")[0] for port in services["gateway"]["ports"]] == ["127.0.0.1"]
    assert not any("ports" in one for name, one in services.items() if name != "gateway")
    keys = {one["environment"]["PUBLIUS_API_KEY"] for one in services.values() if "command" in one}
    assert len(keys) == 1 and keys.pop().startswith("${PUBLIUS_API_KEY:?")  # none is written down


@pytest.mark.usefixtures("variables")
def test_compose_before_vllm():
    services = yaml.safe_load((DEPLOY / "compose.vllm.yaml").read_text())["services"]
    _, told = taken(services["gateway"]["command"])
    command = services["vllm"]["command"]
    assert hosts(told["backend"]) == [("vllm", int(command[command.index("--port") + 1]))]


@pytest.mark.usefixtures("variables")
def test_kubernetes_serves():
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "serve.yaml").read_text()))
    found = {(one["kind"], one["metadata"]["name"]): one for one in documents}
    servers, gateways = found["StatefulSet", "publius-server"], found["Deployment", "publius-gateway"]
    scaler = found["HorizontalPodAutoscaler", "publius-server"]["spec"]
    told: dict[str, dict] = {}
    for one in (servers, gateways):
        pod = one["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        verb, told[one["kind"]] = taken(container["args"])
        (port,) = container["ports"]
        assert port["containerPort"] == told[one["kind"]]["port"]
        assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": port["name"]}
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert one["spec"]["selector"]["matchLabels"] == labels
        assert verb == ("serve" if one is servers else "gateway")
        assert pod["terminationGracePeriodSeconds"] >= ServeConfig().drain + 10
        mounts = {mount["name"] for mount in container.get("volumeMounts", ())}
        assert mounts == {volume["name"] for volume in pod.get("volumes", ())}
    (container,) = servers["spec"]["template"]["spec"]["containers"]
    assert SIGNERS in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert (
        gateways["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        >= told["Deployment"]["drain"] + 5
    )
    name = servers["metadata"]["name"]
    assert found["Service", servers["spec"]["serviceName"]]["spec"]["clusterIP"] == "None"
    most = range(scaler["maxReplicas"])
    wanted = [(f"{name}-{i}.{name}", told["StatefulSet"]["port"]) for i in most]
    assert hosts(told["Deployment"]["backend"]) == wanted
    assert servers["spec"]["replicas"] == scaler["minReplicas"] <= scaler["maxReplicas"]


def test_the_image_copies_what_is_there():
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for name in copied:
        assert (DEPLOY.parent / name).exists() and f"!{name}" in kept
    assert 'ENTRYPOINT ["publius"]' in lines and "USER publius" in lines
    # Docker would make the folder of a file that is mounted, as root's, where the server makes its own key.
    assert any("--owner=publius" in line and Path(SIGNERS).parent.as_posix() in line for line in lines)
