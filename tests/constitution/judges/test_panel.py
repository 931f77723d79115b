from __future__ import annotations

import pytest

from publius.constitution.judges import Abstention, Judgement, Panel, ParseFailure, Ruling, Skipped
from publius.constitution.judges.judgement import logit, sigmoid
from publius.constitution.principles import Constitution
from publius.core.messages import Conversation, assistant, user

P = Constitution.load().principles[0]
PAIR = (Conversation(messages=(user("q"),)), assistant("a"), assistant("b"))


class Fixed:
    """Says what it is told, of every pair."""

    def __init__(self, verdict: Ruling) -> None:
        self.verdict = verdict

    def judge(self, pairs, principles) -> list[Ruling]:
        return [self.verdict for _ in pairs]


def said(forward: float, backward: float | None = None) -> Judgement:
    backward = forward if backward is None else backward
    p = sigmoid((logit(forward) + logit(backward)) / 2)
    return Judgement(p, (forward > 0.5) == (backward > 0.5), forward, backward, P.id)


def panel(*verdicts: Ruling, how="mean") -> Ruling:
    [joined] = Panel([Fixed(v) for v in verdicts], how).judge([PAIR], [P])
    return joined


@pytest.mark.parametrize("how", ["mean", "majority"])
@pytest.mark.parametrize("verdict", [said(0.9, 0.3), ParseFailure("x", "p"), Abstention("x", "p")])
def test_a_panel_of_one_is_its_member(verdict: Ruling, how) -> None:
    assert panel(verdict, how=how) == verdict


def test_mean_of_logits() -> None:
    joined = panel(said(0.9, 0.6), said(0.3, 0.2))
    assert isinstance(joined, Judgement)
    forward = (logit(0.9) + logit(0.3)) / 2
    backward = (logit(0.6) + logit(0.2)) / 2
    assert joined.forward == pytest.approx(sigmoid(forward))
    assert joined.probability == pytest.approx(sigmoid((forward + backward) / 2))
    assert joined.votes == pytest.approx((said(0.9, 0.6).probability, said(0.3, 0.2).probability))
    assert not joined.consistent


def test_majority_is_the_share_of_votes() -> None:
    joined = panel(said(0.9), said(0.51), said(0.01), how="majority")
    assert isinstance(joined, Judgement)
    assert joined.probability == pytest.approx(2 / 3)
    even = panel(said(0.9), said(0.5), said(0.1), how="majority")
    assert isinstance(even, Judgement) and even.probability == 0.5


def test_members_without_a_judgement() -> None:
    no, lost, odd = Abstention("no", "p"), Skipped("lost", "p"), ParseFailure("odd", "p")
    heard = panel(said(0.9), no, said(0.8))
    assert isinstance(heard, Judgement) and len(heard.votes) == 2
    assert panel(said(0.9), no, odd) == no, "one of three is no panel"
    assert panel(said(0.9), lost, odd, odd) == odd
    assert panel(no, odd) == no
    assert panel(lost, lost) == lost
    with pytest.raises(ValueError, match="member"):
        Panel([])
