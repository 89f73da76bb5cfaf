"""Selection rules over scores."""

from .by_hand import Choices, PictureCodes, apply, picture_codes, read_choices
from .select import RULES, UNKNOWN, Decision, best, check_rule, decide, real_of, select
from .suggest import Suggestion, suggest_cut

__all__ = [
    "RULES",
    "UNKNOWN",
    "Choices",
    "Decision",
    "PictureCodes",
    "Suggestion",
    "apply",
    "best",
    "check_rule",
    "decide",
    "picture_codes",
    "read_choices",
    "real_of",
    "select",
    "suggest_cut",
]
