"""Keeps a reply to its grammar and its thinking to its budget: which tokens may come next.

A request that asks for either has a Guide. It says before each draw which ids may come, and moves on only
with the tokens that the request takes: what the engine reads again, or computes beside it, does not touch
it. All other ids' logits become -inf before filters and draw, so a row is drawn from the model's own
distribution over what may come. Where a single id may come, there is nothing to draw: `forced`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from publius.core.errors import UserError
from publius.inference.grammar import Grammar
from publius.inference.sampling import Sampling
from publius.tokenizer.special import ASSISTANT, THINK, THINK_END, TOOL_USE, TOOL_USE_END
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["Guide", "Guides", "thinking_open"]

Bits = NDArray[np.uint32]
"""One bit an id, the lowest first."""

_ONE = np.uint32(1)
_KEPT = 256
"""Most compiled grammars an engine keeps."""
_PROBED = 64
"""A grammar is followed so far, where only one token may come, to see that it does not end in nothing."""


def thinking_open(prompt: Sequence[int], tokenizer: Tokenizer) -> bool:
    """Whether a reply to `prompt` begins inside of a thinking block."""
    special = tokenizer.special
    closers = (special[THINK_END], special[ASSISTANT])
    for token in reversed(prompt):
        if token == special[THINK]:
            return True
        if token in closers:
            break
    return False


class _Ids(NamedTuple):
    """A tokenizer's ids as guides need them."""

    size: int
    end: int
    think: int
    think_end: int
    tool_use: int
    tool_use_end: int
    ordinary: Bits
    """All ids with bytes of their own: no special one, no hole."""
    every: Bits
    """All ids of the tokenizer; the model may have more."""

    def only(self, *ids: int) -> Bits:
        return with_ids(np.zeros_like(self.every), ids)


def with_ids(bits: Bits, ids: Iterable[int]) -> Bits:
    """`bits` and these ids."""
    more = bits.copy()
    for token in ids:
        more[token >> 5] |= _ONE << np.uint32(token & 31)
    return more


def without(bits: Bits, token: int) -> Bits:
    """`bits` but this id."""
    less = bits.copy()
    less[token >> 5] &= ~(_ONE << np.uint32(token & 31))
    return less


class _Compiled(NamedTuple):
    """A grammar at its beginning."""

    matcher: LLMatcher
    loose: bool
    """Special tokens are none of its business, and yet it might let them through."""


class Guide:
    """Where one reply stands. Made by `Guides.guide`.

    Attributes:
        error: why nothing may come next; None while something may.
    """

    def __init__(
        self,
        ids: _Ids,
        grammar: Grammar | None,
        compiled: _Compiled | None,
        *,
        budget: int | None,
        thinking: bool,
    ) -> None:
        self.error: UserError | None = None
        self._ids, self._grammar, self._compiled, self._budget = ids, grammar, compiled, budget
        self._matcher = compiled.matcher.deep_copy() if compiled and grammar and not grammar.begin else None
        self._open = ids.think_end if thinking else None
        """What closes the block that is open in free text."""
        self._thought, self._thoughts = 0, int(thinking)
        """Tokens of thinking, and blocks of it."""
        self._due: tuple[int, ...] = ()
        self._bits = np.zeros_like(ids.every)
        self._address = self._bits.ctypes.data
        self._found: tuple[Bits | None] | None = None
        """What `allowed` says of this place, once it has been asked."""
        free = grammar is None or grammar.lead == "anything"
        self._place: Literal["lead", "free", "inside", "closing", "over"] = "free" if free else "lead"

    @property
    def calling(self) -> bool:
        """Whether a tool call is being written whose end it sees to."""
        if self._place == "lead":
            return self._open == self._ids.tool_use_end
        kept = self._grammar is not None and self._ids.tool_use in self._grammar.begin
        return kept and self._place in ("inside", "closing")

    def allowed(self) -> Bits | None:
        """The ids that may come next; None when all may. Good until the next token is taken."""
        if self._found is None:
            self._found = (self._allowed(),)
        return self._found[0]

    def forced(self) -> int | None:
        """The only id that may come next; None when others may, or none."""
        bits = self.allowed()
        if bits is None:
            return None
        number = int.from_bytes(bits.tobytes(), "little")
        return number.bit_length() - 1 if number.bit_count() == 1 else None

    def _allowed(self) -> Bits | None:
        ids, grammar = self._ids, self._grammar
        spent = self._budget is not None and self._thought >= self._budget
        if self._open == ids.think_end and self._place in ("lead", "free"):
            if spent:
                return ids.only(ids.think_end)
            return with_ids(ids.ordinary, [ids.think_end]) if self._place == "lead" else None
        if self._place == "free" or grammar is None:
            return without(ids.every, ids.think) if spent else None
        if self._place == "lead":
            return self._opening(grammar, spent)
        if self._place == "inside":
            return self._matching(grammar)
        return ids.only(self._due[0] if self._due else ids.end)

    def _opening(self, grammar: Grammar, spent: bool) -> Bits:
        """What may come before the grammar has begun."""
        ids = self._ids
        if grammar.lead == "text":
            if self._open is not None:
                return with_ids(ids.ordinary, [self._open])
            bits = with_ids(ids.ordinary, [*grammar.begin, ids.tool_use])
        else:
            bits = ids.only(*grammar.begin) if grammar.begin else self._matching(grammar)
        first = grammar.lead == "text" or (grammar.lead == "thinking" and not self._thoughts)
        return with_ids(bits, [ids.think]) if first and not spent else bits

    def _matching(self, grammar: Grammar) -> Bits:
        """What goes on in the grammar, or closes it."""
        assert self._matcher is not None and self._compiled is not None
        ids, matcher, bits = self._ids, self._matcher, self._bits
        matcher.unsafe_compute_mask_ptr(self._address, bits.nbytes)
        if matcher.is_error():
            self.stick(_told(matcher))
            bits[:] = 0
            return bits
        if self._compiled.loose:  # a negated terminal takes any bytes, those of special tokens too
            bits &= ids.ordinary
        if matcher.is_accepting():
            return with_ids(without(bits, ids.end), grammar.end[:1] or (ids.end,))
        return bits

    def take(self, token: int) -> None:
        """`token` came next."""
        self._found = None
        if self._place in ("lead", "free") and self._lead(token):
            return
        if self._place == "inside":
            self._match(token)
        elif self._due:
            self._due = self._due[1:]
            if not self._due:
                self._close()

    def _lead(self, token: int) -> bool:
        """Whether `token` is no business of the grammar."""
        ids, grammar = self._ids, self._grammar
        if self._open is not None:
            if token == self._open:
                self._open = None
            elif self._open == ids.think_end:
                self._thought += 1
            return True
        begins = () if grammar is None else grammar.begin
        if token in begins:
            assert self._compiled is not None
            self._matcher, self._place = self._compiled.matcher.deep_copy(), "inside"
            return True
        if token == ids.think and (self._place == "free" or (grammar and grammar.lead != "nothing")):
            self._open, self._thoughts = ids.think_end, self._thoughts + 1
            return True
        if self._place == "lead" and not begins:
            self._place = "inside"
            return False
        if token == ids.tool_use:
            self._open = ids.tool_use_end
        return True

    def _match(self, token: int) -> None:
        assert self._matcher is not None and self._grammar is not None
        end = self._grammar.end[:1] or (self._ids.end,)
        if token == end[0] and self._matcher.is_accepting():
            self._due = self._grammar.end[1:]
            self._place = "closing"
            if not self._due:
                self._close()
        elif not self._matcher.consume_token(token):
            self.stick(f"token {token} does not go on in it")

    def _close(self) -> None:
        """The grammar's end has come."""
        assert self._grammar is not None
        self._place = "free" if self._grammar.then == "free" else "over"

    def stick(self, why: str) -> None:
        """Nothing may come next."""
        self.error = UserError(
            f"the reply cannot go on in its grammar: {why}",
            where="Sampling.grammar",
            fix="simplify the grammar, and forbid no token that it needs",
        )


class Guides:
    """Makes guides for one tokenizer; a grammar is compiled when it is first used, and kept.

    Args:
        tokenizer: of the model that is guided.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: _Ids | None = None
        self._vocabulary: LLTokenizer | None = None
        self._compiled: dict[tuple[str, str], _Compiled] = {}

    def guide(self, index: int, prompt: Sequence[int], sampling: Sampling) -> Guide | None:
        """The guide of a reply to `prompt`; None when there is nothing to keep it to.

        Raises:
            UserError: naming request `index`, for a grammar that is malformed, cannot be met, or has ids that
                the tokenizer lacks.
        """
        grammar, budget = sampling.grammar, sampling.thinking_budget
        if grammar is None and budget is None:
            return None
        ids = self._ids = self._ids or _ids(self._tokenizer)
        compiled = None
        if grammar is not None:
            where = f"request {index}: Sampling.grammar ({grammar.kind})"
            wrong = [token for token in (*grammar.begin, *grammar.end) if not 0 <= token < ids.size]
            if wrong:
                what = f"begin or end is id {wrong[0]}, outside the vocabulary of {ids.size}"
                raise UserError(what, where=where, fix="take ids from the engine's tokenizer")
            compiled = self._compile(grammar, ids, where)
        return Guide(ids, grammar, compiled, budget=budget, thinking=thinking_open(prompt, self._tokenizer))

    def _compile(self, grammar: Grammar, ids: _Ids, where: str) -> _Compiled:
        key = (grammar.kind, grammar.text)
        found = self._compiled.pop(key, None)
        if found is None:
            found = self._made(grammar, ids, where)
            if len(self._compiled) >= _KEPT:
                del self._compiled[next(iter(self._compiled))]
        self._compiled[key] = found  # the latest used is last
        return found

    def _made(self, grammar: Grammar, ids: _Ids, where: str) -> _Compiled:
        if self._vocabulary is None:
            self._vocabulary = LLTokenizer(TokenizerWrapper(_Vocabulary(self._tokenizer)))
        fix = "mend it, or leave out what cannot be enforced"
        try:
            text = {
                "json_schema": LLMatcher.grammar_from_json_schema,
                "regex": LLMatcher.grammar_from_regex,
                "lark": LLMatcher.grammar_from_lark,
            }[grammar.kind](grammar.text)
        except ValueError as error:
            raise UserError(f"the grammar cannot be read: {error}", where=where, fix=fix) from error
        limits = LLParserLimits(verbose_errors=False)
        matcher = LLMatcher(self._vocabulary, text, log_level=0, limits=limits)
        made = _Compiled(matcher, loose=grammar.kind == "lark" and "<" not in grammar.text)
        why = _told(matcher) if matcher.is_error() else _dead(made, ids)
        if why:
            raise UserError(f"the grammar cannot be met: {why}", where=where, fix=fix)
        return made


def _dead(made: _Compiled, ids: _Ids) -> str:
    """Why no text matches, as far as a look at the beginning shows; else empty."""
    probe = Guide(ids, Grammar("lark", ""), made, budget=None, thinking=False)
    for _ in range(_PROBED):
        bits = probe.allowed()
        assert bits is not None
        if probe.error is not None:
            return probe.error.what.partition(": ")[2]
        if not bits.any():
            return "no token of the vocabulary goes on in it"
        forced = probe.forced()
        if forced is None or forced == ids.end:
            break
        probe.take(forced)
    return ""


def _told(matcher: LLMatcher) -> str:
    """What llguidance says is wrong, without its own state."""
    return matcher.get_error().split("\n<")[0].replace("<non-verbose/>", "").strip() or "nothing matches it"


def _ids(tokenizer: Tokenizer) -> _Ids:
    size, special = tokenizer.vocab_size, tokenizer.special
    flags = np.arange(-(-size // 32) * 32) < size
    every = np.packbits(flags, bitorder="little").view(np.uint32)
    flags[:size] = [bool(tokenizer.id_bytes(token)) for token in range(size)]
    flags[[*tokenizer.special_ids]] = False
    ordinary = np.packbits(flags, bitorder="little").view(np.uint32)
    think, think_end, use, used = (special[name] for name in (THINK, THINK_END, TOOL_USE, TOOL_USE_END))
    return _Ids(size, tokenizer.end_id, think, think_end, use, used, ordinary, every)


class _Vocabulary:
    """A tokenizer as llguidance wants it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        names = {token: name.encode() for name, token in tokenizer.special.items()}
        self.eos_token_id, self.bos_token_id = tokenizer.end_id, tokenizer.bos_id
        self.tokens = [names.get(i) or tokenizer.id_bytes(i) for i in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(names)
        self._tokenizer = tokenizer
        # Grammars force the same texts again and again: names of fields, marks between them.
        self._forced = functools.lru_cache(1 << 16)(self._encode)
        self._single = {token: i for i, token in enumerate(self.tokens) if len(token) == 1}

    def __call__(self, text: bytes) -> list[int]:
        """Ids of a text that is forced; one a byte, or none, where the tokenizer would write another."""
        return list(self._forced(text))

    def _encode(self, text: bytes) -> list[int]:
        ids = self._tokenizer.encode(text.decode("utf-8", errors="replace"))
        if b"".join(map(self._tokenizer.id_bytes, ids)) == text:
            return ids
        single = [self._single.get(bytes([byte])) for byte in text]
        return [] if None in single else [token for token in single if token is not None]
