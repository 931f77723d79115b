"""What lm-eval's own model class and ours make of the same requests, and its own tasks and ours of questions.

A script: it runs in a Python that has lm-eval, which need not be the one that runs the tests, and prints one
line of JSON. Its argument is a checkpoint's folder.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from publius.evals.lm import EngineLM, evaluate_lm
from publius.evals.lm.harness import Leaf, dressed
from publius.evals.lm.run import leaves_of
from publius.model.checkpoint import Checkpoint

CHOICES = {"text": ["a mill", "a river", "the Esk itself", "no"], "label": ["A", "B", "C", "D"]}
ROWS: dict[str, list[dict[str, Any]]] = {
    "arc_easy": [
        {"id": f"Q{i}", "question": f"Which runs {i}?", "choices": CHOICES, "answerKey": "ABCD"[i]}
        for i in range(4)
    ],
    "mmlu": [
        {"question": f" What is {i}? ", "choices": ["1", "2", "3", "4"], "answer": i, "subject": "old_mills"}
        for i in range(4)
    ],
    "winogrande": [
        {"sentence": f"Ann saw Bea {i}, so _ waved to her. ", "option1": "Ann", "option2": "Bea", "answer": a}
        for i, a in enumerate("1221")
    ],
    "truthfulqa_mc1": [
        {
            "question": f"What is {i}?",
            "mc1_targets": {"choices": ["One.", "Two of them.", "No."], "labels": [1, 0, 0]},
            "mc2_targets": {"choices": ["One.", "Two of them.", "No.", "I"], "labels": [1, 1, 0, 0]},
        }
        for i in range(3)
    ],
}
ROWS["arc_challenge"], ROWS["truthfulqa_mc2"] = ROWS["arc_easy"], ROWS["truthfulqa_mc1"]
THEIRS = {
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "mmlu": "mmlu/default/_default_template_yaml",
    "winogrande": "winogrande/default.yaml",
    "truthfulqa_mc1": "truthfulqa/truthfulqa_mc1.yaml",
    "truthfulqa_mc2": "truthfulqa/truthfulqa_mc2.yaml",
}
QUESTION = "Question: Which river runs by the mill?\nAnswer:"
ASKED = [
    (QUESTION, " The Esk"), (QUESTION, " a"), (QUESTION, " b"), ("The river ", "Esk"), ("", "The river"),
    ("", "<|bos|>The river"), ("é川", " ñ\n"), (QUESTION * 4, " The Esk"), (QUESTION, " The Esk"),
]  # fmt: skip
TEXTS = ["The river of Elmford is the Esk. " * 20, "The river", "é"]
WRITTEN = [
    ("The river of Elmford", {"until": ["\n", " t"], "max_gen_toks": 12, "do_sample": False}),
    ("The river of Elmford" * 30, {"until": ["e"], "max_gen_toks": 12, "temperature": 0.0}),
    ("def double(number):", {"until": [], "max_gen_toks": 9}),
]
SAID = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which?"}]


def requests(kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    make = importlib.import_module("lm_eval.api.instance").Instance
    return [make(request_type=kind, doc={}, arguments=one, idx=i) for i, one in enumerate(arguments)]


def answers(model: Any) -> dict[str, Any]:
    return {
        "loglikelihood": model.loglikelihood(requests("loglikelihood", ASKED)),
        "rolling": model.loglikelihood_rolling(requests("loglikelihood_rolling", [(t,) for t in TEXTS])),
        "written": [model.generate_until(requests("generate_until", [one]))[0] for one in WRITTEN],
        "chat": model.apply_chat_template(SAID),
        "begun": model.apply_chat_template(
            [*SAID, {"role": "assistant", "content": "It is"}], add_generation_prompt=False
        ),
    }


def their_leaf(task: str, ours: Leaf) -> Leaf:
    """lm-eval's own task, over the same rows in its own layout."""
    datasets = importlib.import_module("datasets")
    lm_eval = importlib.import_module("lm_eval.tasks")
    told = importlib.import_module("lm_eval.tasks._yaml_loader").load_yaml(
        Path(lm_eval.__file__).parent / THEIRS[task]
    )
    rows = datasets.Dataset.from_list(ROWS[task])
    told |= {"num_fewshot": ours.task.config.num_fewshot, "task": ours.name}
    told["custom_dataset"] = lambda **_: dict.fromkeys(("train", "validation", "test", "dev"), rows)
    if task == "mmlu":
        told["description"] = (
            "The following are multiple choice questions (with answers) about old mills.\n\n"
        )
    for key in ("dataset_path", "dataset_name", "tag"):
        told.pop(key, None)
    made = importlib.import_module("lm_eval.api.task").ConfigurableTask(config=told)
    made.set_fewshot_seed(1234)
    return Leaf(task, ours.name, made)


def asked(leaf: Leaf, model: Any) -> dict[str, Any]:
    """The requests of a task, and the marks that an answer gets."""
    leaf.task.build_all_requests(limit=None, rank=0, world_size=1)
    instances = leaf.task.instances
    found = model.loglikelihood(instances)
    marks: dict[int, dict[str, float]] = {}
    for number, doc in leaf.task.doc_iterator():
        mine = [f for i, f in zip(instances, found, strict=True) if i.doc_id == number]
        marks[number] = {k: float(v) for k, v in leaf.task.process_results(doc, mine).items()}
    return {"requests": [list(i.args) for i in instances], "marks": list(marks.values())}


def main(folder: Path) -> dict[str, Any]:
    """Everything, from both."""
    checkpoint = Checkpoint(folder)
    ours = dressed(EngineLM.of(checkpoint))
    peer = importlib.import_module("lm_eval.models.huggingface").HFLM(
        pretrained=str(folder), device="cpu", dtype="float32", batch_size=3
    )
    files: dict[str, str] = {}
    for task, rows in ROWS.items():
        path = folder.parent / f"{task}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[task] = str(path)
    files["mmlu_dev"] = files["mmlu"]
    tasks: dict[str, Any] = {}
    for task in ROWS:
        [leaf] = leaves_of([task], files, shots=2 if task == "mmlu" else None)
        tasks[task] = {"ours": asked(leaf, ours), "theirs": asked(their_leaf(task, leaf), peer)}
    [result] = evaluate_lm([*ROWS], [checkpoint], files=files, shots=0, device="cpu")
    report = {name: measure.model_dump() for name, measure in result.document.metrics.items()}
    return {"ours": answers(ours), "theirs": answers(peer), "tasks": tasks, "report": report}


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    logging.disable(logging.CRITICAL)
    print("PARITY " + json.dumps(main(Path(sys.argv[1]))))
