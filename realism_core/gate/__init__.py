"""Selection rules over scores."""

from .select import RULES, best, check_rule, select

__all__ = ["RULES", "best", "check_rule", "select"]
