"""UserError says what, where, and what to do."""

import copy

from publius.core.errors import UserError


def test_text():
    assert str(UserError("bad")) == "bad"
    assert str(UserError("bad", where="file:3", fix="mend it")) == "bad\n  where: file:3\n  fix:   mend it"


def test_survives_copying_between_processes():
    error = copy.copy(UserError("bad", where="w", fix="f"))
    assert (error.what, error.where, error.fix) == ("bad", "w", "f")
    assert str(error) == str(UserError("bad", where="w", fix="f"))
