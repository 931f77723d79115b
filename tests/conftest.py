"""What holds for all tests."""

from hypothesis import settings

# a busy machine is no failure: what is slow is seen in pytest's own timeout
settings.register_profile("publius", deadline=None)
settings.load_profile("publius")
