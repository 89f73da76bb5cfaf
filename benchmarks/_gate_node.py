"""What Realism Gate adds to a run that scores pictures: the node by itself, and the whole run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks import _bench_server as bench
from benchmarks._bench_server import Graph, Ran, bench_server
from benchmarks._rounds import in_turn, print_table, spread, versus
from devtools.server import ComfyServer
from realism_core.gate.audit import verify

CASES = ((64, 512), (16, 1024))
WITHOUT, WITH, LOGGED = "no gate", "gate", "gate, audit on"


class Gated:
    """The graphs of one batch: noise, Realism Score, and a gate that lets half of the pictures pass."""

    def __init__(self, server: ComfyServer, batch: int, side: int) -> None:
        self.server, self.batch, self.side = server, batch, side
        self.widgets = bench.defaults(server, "RealismGate")
        self.widgets.update(metric="irs", rule="top_fraction", value=0.5)
        self.made: dict[int, list[str]] = {}
        self.own: dict[str, list[float]] = {}

    def sides(self) -> dict[str, Callable[[int], float]]:
        """Return the ways, called with the round."""
        ways = {WITHOUT: None, WITH: "off", LOGGED: "on"}
        return {name: partial(self._timed, name, audit) for name, audit in ways.items()}

    def _timed(self, name: str, audit: str | None, number: int) -> float:
        """Return ms a picture of the whole run, and keep those of the gate, having checked the pictures."""
        graph = Graph()
        pictures = graph.add(
            "TestImages", batch=self.batch, height=self.side, width=self.side, seed=number + 1,
            salt=bench.salt(),
        )  # fmt: skip
        scored = graph.add("RealismScore", images=pictures)
        gate = None
        if audit is None:
            graph.add("BenchSink", images=scored["images"])
        else:
            widgets = {**self.widgets, "audit": audit}
            gate = graph.add("RealismGate", **widgets, images=scored["images"], scores=scored["scores"])
            for output in ("passed", "rejected"):
                graph.add("BenchSink", images=gate[output])
        ran = self._run(graph)
        reached = sorted(bench.digests(self.server))
        if len(reached) != self.batch or self.made.setdefault(number, reached) != reached:
            raise RuntimeError("not the same pictures reached the end with a gate and without")
        if number >= 0 and gate is not None:
            self.own.setdefault(name, []).append(1e3 * ran.nodes[gate.id] / self.batch)
        return 1e3 * ran.seconds / self.batch

    def _run(self, graph: Graph) -> Ran:
        ran = bench.run(self.server, graph)
        if ran.cached:
            raise RuntimeError("the cache answered in place of a node: the sides did not do the same work")
        return ran


def measure(repeats: int) -> None:
    """Print what a run takes a picture without a gate, with one, and with one that logs."""
    with bench_server() as server:
        log = server.base / "user" / "realism" / "audit.sqlite"
        logged = 0
        for batch, side in CASES:
            gated = Gated(server, batch, side)
            times = in_turn(gated.sides(), repeats)
            logged += batch * (repeats + 1)
            if verify(log).entries != logged:
                raise RuntimeError("the gate with its audit on did not log every decision once")
            print(
                f"\ngate, {batch} pictures of {side} x {side}, half of which pass, {repeats} rounds: ms a "
                "picture, median (least..most); the gate by its messages"
            )
            rows = []
            for name, values in times.items():
                more = versus(values, times[WITHOUT], lambda own, plain: own - plain)
                own = gated.own.get(name)
                others = [spread(more, "+.2f"), spread(own, ".2f")] if own else ["", ""]
                rows.append([name, spread(values), *others])
            print_table(["run", "ms a picture", "more than no gate", "the gate by itself"], rows)
