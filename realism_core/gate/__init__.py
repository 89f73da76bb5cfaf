"""Selection rules over scores."""

from .select import RULES, UNKNOWN, Decision, best, check_rule, decide, select

__all__ = ["RULES", "UNKNOWN", "Decision", "best", "check_rule", "decide", "select"]
