"""The policy: what a user asks of a pair of models, as a typed file."""

from qebgate.policy.load import PolicyFile, find_policy, load_policy, parse_policy
from qebgate.policy.model import Policy

__all__ = ["Policy", "PolicyFile", "find_policy", "load_policy", "parse_policy"]
