"""From a policy to jobs: models read and aligned, regions expanded, tasks built, nothing run yet."""

from qebgate.plan.model import EFFORT, Job, Plan, PlannedCheck
from qebgate.plan.planner import make_plan

__all__ = ["EFFORT", "Job", "Plan", "PlannedCheck", "make_plan"]
