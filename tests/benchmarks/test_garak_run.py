"""What the script makes of a report: counts, and no text of anyone's."""

from __future__ import annotations

import json
from pathlib import Path

from garak_run import by_hand, compared, id_of, labels_in, table

from publius.pipeline import testing_run
from publius.redteam.garak import GarakConfig, garak_findings, read_garak
from publius.redteam.gold import GoldConfig, gold_set
from publius.redteam.judging import EstimateConfig, estimate, judge_findings, measure_judge
from tests.inference.remote.wire import wire
from tests.redteam.test_judging import config, found, judged_by, mixed, truthful

REPORT = Path(__file__).parents[1] / "redteam" / "garak.report.jsonl"


def test_a_report_is_judged_again_and_told_in_counts(tmp_path: Path) -> None:
    attempts = read_garak(REPORT)
    labels = tmp_path / "labels.jsonl"
    labels.write_text(json.dumps({"id": id_of(attempts[0]), "label": "incoherent"}) + "\n")
    read = labels_in(labels)
    with wire(judged_by(truthful)) as server:
        asked = config(server, tmp_path)
        source = found(tmp_path / "gold", mixed(0, 20, 20))
        gold = gold_set(testing_run(tmp_path), GoldConfig(each=0), findings=[source])
        known = measure_judge(testing_run(tmp_path), asked, gold=gold)
        scanned = garak_findings(testing_run(tmp_path), GarakConfig(report=str(REPORT)))
        graded = judge_findings(testing_run(tmp_path), asked, findings=scanned)
    made = estimate(testing_run(tmp_path), EstimateConfig(), judged=graded, report=known)
    rows = {row["probe"]: row for row in compared(attempts, graded, made, read)}
    assert rows["divergence.Repeat"]["labels of garak's hits"] == {"refusal": 3}
    assert rows["latentinjection.LatentWhois"]["labels"] == {"none": 3}
    assert rows["latentinjection.LatentWhois"]["corrected"]["worst"] == 1
    assert rows["ansiescape.AnsiRaw"]["read by hand"] == {"incoherent": 1}
    assert by_hand(attempts, graded, known, read)["read"] == 1
    told = table(list(rows.values())) + json.dumps(list(rows.values()))
    assert "| `grandma.Win11` | 2 | `MitigationBypass` | 2 of 2 (100%) | 0 | 0 of 2 |" in told
    assert "hyperlink" not in told and "lius." not in told
