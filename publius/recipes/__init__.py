"""Recipes: one Python function each, the only place where all stages meet. Read `quickstart.py` first."""
