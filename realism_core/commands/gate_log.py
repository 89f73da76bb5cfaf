"""The decisions of `realism gate` in an audit log, each once."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from .. import __version__
from ..gate.folders import Placed


class DecisionLog:
    """Logs what a folder gate decides; what the log holds already of a file is not logged again.

    path: the log, made if there is none. rule: what decided, plain JSON values. metric: the score's name.
    purpose: the declared use. Raises AuditError, a ValueError that names the fix, where there is no writing.
    """

    def __init__(self, path: str, rule: Mapping, metric: str, purpose: str = "") -> None:
        from ..gate.audit import AuditLog, read  # needs SQLAlchemy, which only those who log need

        self._about = {"rule": dict(rule), "metric": metric, "purpose": purpose}
        self._metric = metric
        # hashes of a file's path and of its last decision
        self._known: dict[int, int] = {}
        self._log = AuditLog(path)
        for entry in read(path):
            body = entry.parsed or {}
            if body.get("source") and body.get("metric") == metric:
                self._known[hash(body["source"])] = _gist(body)

    def __call__(self, placed: Placed, sha256: str) -> None:
        """Log what became of a picture, durably, before anything else is done with it."""
        value = placed.value if math.isfinite(placed.value) else None
        body = {
            "kind": "decision", "decision": placed.decision, **self._about,
            "value": value, "scores": {self._metric: value}, "seeds": [], "models": [], "workflow": None,
            "prompt": None, "picture": None, "source": os.fspath(placed.path.absolute()),
            "file": None if placed.target is None else os.fspath(placed.target.absolute()),
            "file_sha256": sha256 or None, "by_hand": False, "pack": __version__,
        }  # fmt: skip
        if placed.reason:
            body["reason"] = placed.reason
        source, gist = hash(body["source"]), _gist(body)
        if self._known.get(source) != gist:
            self._log.append([body])
            self._known[source] = gist

    def close(self) -> None:
        """Give the log free."""
        self._log.close()


def _gist(body: Mapping) -> int:
    return hash((body.get("decision"), body.get("value"), body.get("file")))
