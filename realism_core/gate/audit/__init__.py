"""The audit log of gate decisions: append-only, hash-chained, its head anchored in a second file."""

from .chain import Entry
from .errors import AuditError
from .log import AuditLog
from .verify import Verdict, read, verify

__all__ = ["AuditError", "AuditLog", "Entry", "Verdict", "read", "verify"]
