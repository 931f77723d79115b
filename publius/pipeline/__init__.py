"""Typed artifacts, stages, recipes: what exists is finished, what moved says why. Knows no ML."""

from publius.pipeline.artifact import Artifact, Record
from publius.pipeline.clean import Removed, clean_home
from publius.pipeline.hardware import HARDWARE, PUE, Cluster, Hardware, cluster_named, hardware_named
from publius.pipeline.load import builtin_recipes, load_recipe, parse_settings
from publius.pipeline.plan import PlanRow, plan_recipe, plan_totals
from publius.pipeline.recipe import Node, Recipe
from publius.pipeline.run import Run, testing_run
from publius.pipeline.runner import StageCrash, run_recipe
from publius.pipeline.show import RunView, StageView, list_runs, show_run
from publius.pipeline.stage import Stage, stage
from publius.pipeline.stop import Stopped

__all__ = [
    "HARDWARE",
    "PUE",
    "Artifact",
    "Cluster",
    "Hardware",
    "Node",
    "PlanRow",
    "Recipe",
    "Record",
    "Removed",
    "Run",
    "RunView",
    "Stage",
    "StageCrash",
    "StageView",
    "Stopped",
    "builtin_recipes",
    "clean_home",
    "cluster_named",
    "hardware_named",
    "list_runs",
    "load_recipe",
    "parse_settings",
    "plan_recipe",
    "plan_totals",
    "run_recipe",
    "show_run",
    "stage",
    "testing_run",
]
