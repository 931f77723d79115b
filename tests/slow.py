"""Tests that take half a minute or more each, of what others cover in part: `make test-all` runs them too."""

import os

import pytest

slow = pytest.mark.skipif(os.environ.get("PUBLIUS_SLOW") != "1", reason="long: make test-all runs it")
