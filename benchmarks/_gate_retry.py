"""Sample Until Real against the same seeds as plain runs, and against the same search by node expansion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from benchmarks import _bench_server as bench
from benchmarks._bench_server import Graph, Ran, bench_server
from benchmarks._rounds import forget_peak, in_turn, peak, print_table, spread, versus
from devtools.server import ComfyServer
from tests.comfy.graphs import Node
from tests.tiny_models import CONDITIONING, link_checkpoint

SIDE = 512
METRICS = ("irs", "typicality", "p_photo")
PLAIN, JOINED = "plain runs, queued", "plain runs in one graph"
SCORED, EXPANDED = "plain runs + Realism Score, queued", "by node expansion, irs"
NEVER = 1e9
SETTINGS = {"cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}


class Search:
    """The graphs of one model: some attempts from a first seed, in one way or another."""

    def __init__(self, server: ComfyServer, kind: str, steps: int, attempts: int) -> None:
        self.server, self.kind, self.attempts = server, kind, attempts
        self.settings = {"steps": steps, **SETTINGS}
        self.checkpoint = link_checkpoint(server.base, kind)

    def sides(self) -> dict[str, Callable[[int], Ran]]:
        """Return all ways, called with the first seed."""
        retries = {f"Sample Until Real, {metric}": partial(self.retry, metric) for metric in METRICS}
        return {
            PLAIN: self.plain, JOINED: self.joined, SCORED: partial(self.plain, scored=True), **retries,
            EXPANDED: self.expanded,
        }  # fmt: skip

    def plain(self, seed: int, scored: bool = False) -> Ran:
        """Run a prompt an attempt, all queued at once."""
        new = bench.salt()
        prompts = []
        for number in range(self.attempts):
            graph = Graph()
            pictures = self._sampled(graph, self._loaded(graph, new), seed + number)
            if scored:
                graph.add("BenchSink", images=graph.add("RealismScore", images=pictures)["images"])
            else:
                graph.add("BenchSink", images=pictures)
            prompts.append(graph)
        return self._run(*prompts)

    def joined(self, seed: int) -> Ran:
        """Run all attempts in one prompt."""
        graph = Graph()
        parts = self._loaded(graph, bench.salt())
        for number in range(self.attempts):
            graph.add("BenchSink", images=self._sampled(graph, parts, seed + number))
        return self._run(graph)

    def retry(self, metric: str, seed: int) -> Ran:
        """Run Sample Until Real with a rule that never holds."""
        return self._search("RealismRetry", metric, seed, rule="threshold")

    def expanded(self, seed: int) -> Ran:
        """Run the search by node expansion with a rule that never holds."""
        return self._search("BenchSearch", METRICS[0], seed)

    def parts(self, seed: int, repeats: int) -> dict[str, float]:
        """Return the milliseconds that scoring and drawing take on one picture of this model."""
        graph = Graph()
        pictures = self._sampled(graph, self._loaded(graph, bench.salt()), seed)
        node = graph.add("BenchParts", images=pictures, metrics=",".join(METRICS), repeats=repeats)
        return bench.told(bench.run(self.server, graph), node.id)

    def _search(self, kind: str, metric: str, seed: int, **more: str) -> Ran:
        graph = Graph()
        node = graph.add(
            kind, **self._loaded(graph, bench.salt()), **self.settings, **more, seed=seed, metric=metric,
            value=NEVER, attempts=self.attempts,
        )  # fmt: skip
        graph.add("BenchSink", images=[node.id, 0])
        return self._run(graph)

    def _loaded(self, graph: Graph, new: int) -> dict:
        loader = graph.add("CheckpointLoaderSimple", ckpt_name=self.checkpoint)
        width, pooled = CONDITIONING[self.kind]
        positive, negative = (
            graph.add("TestConditioning", width=width, pooled=pooled, seed=seed) for seed in (1, 2)
        )
        empty = graph.add("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=1)
        latent = graph.add("BenchSalt", latent=empty, salt=new)
        return {
            "model": loader[0], "vae": loader[2],
            "positive": positive, "negative": negative, "latent": latent,
        }  # fmt: skip

    def _sampled(self, graph: Graph, parts: dict, seed: int) -> Node:
        inputs = {name: parts[name] for name in ("model", "positive", "negative")}
        sampled = graph.add("KSampler", **inputs, latent_image=parts["latent"], seed=seed, **self.settings)
        return graph.add("VAEDecode", samples=sampled, vae=parts["vae"])

    def _run(self, *prompts: Graph) -> Ran:
        ran = bench.run(self.server, *prompts)
        work = {node for graph in prompts for node in graph if _works(graph[node]["class_type"])}
        if ran.cached & work:
            raise RuntimeError("the cache answered in place of a node: the sides did not do the same work")
        return ran


def _works(kind: str) -> bool:
    return kind in ("KSampler", "VAEDecode", "RealismScore", "RealismRetry", "BenchSearch")


def measure(kinds: Sequence[str], steps: int, attempts: int, repeats: int) -> None:
    """Print the time and the memory that an attempt takes, for each kind of tiny model."""
    with bench_server() as server:
        for kind in kinds:
            _measure_model(Search(server, kind, steps, attempts), repeats)
    _print_memory(kinds[-1], steps, attempts)


def _measure_model(search: Search, repeats: int) -> None:
    made: dict[int, list[str]] = {}
    cpu: dict[str, list[float]] = {name: [] for name in search.sides()}
    sides = {name: partial(_timed, search, call, made, cpu[name]) for name, call in search.sides().items()}
    times = in_turn(sides, repeats)
    steps = search.settings["steps"]
    print(
        f"\nretry, tiny {search.kind}, {SIDE} x {SIDE}, {steps} steps, {search.attempts} attempts, "
        f"{repeats} rounds: ms an attempt, median (least..most), and how much more than {PLAIN!r}"
    )
    rows = []
    for name, values in times.items():
        shares = versus(values, times[PLAIN], lambda own, plain: 100 * (own / plain - 1))
        more = versus(values, times[PLAIN], lambda own, plain: own - plain)
        others = ["", ""] if name == PLAIN else [spread(shares, "+.1f"), spread(more, "+.1f")]
        rows.append([name, spread(values), *others, spread(cpu[name])])
    print_table(["side", "ms an attempt", "% more", "ms more", "CPU ms an attempt"], rows)
    parts = search.parts(1, 15)
    told = ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
    print(f"the parts of the node beside sampling and decoding, ms for one picture: {told}")
    print(f"all scores and the last preview come once a run: an attempt's share is 1 / {search.attempts}")


def _timed(
    search: Search,
    call: Callable[[int], Ran],
    made: dict[int, list[str]],
    cpu: list[float],
    number: int,
) -> float:
    """Return ms an attempt of a side, having checked that it made the pictures of its seeds.

    made: the pictures of each round. cpu: takes in the side's processor time, ms an attempt.
    """
    seed = 10_000 + search.attempts * number
    ran = call(seed)
    pictures = sorted(bench.digests(search.server))  # one graph runs its branches in an order of its own
    if len(pictures) == search.attempts:
        if made.setdefault(number, pictures) != pictures:
            raise RuntimeError("two sides made other pictures of the same seeds")
    elif len(pictures) != 1 or not set(pictures) <= set(made.get(number, pictures)):
        raise RuntimeError("a search made a picture that no plain run made")
    if number >= 0:
        cpu.append(1e3 * ran.cpu / search.attempts)
    return 1e3 * ran.seconds / search.attempts


def _print_memory(kind: str, steps: int, attempts: int) -> None:
    """Print how a fresh server's peak memory grows by a search of some attempts, and of four times more.

    Before it, the server has run a search of two attempts.
    """
    rows = []
    for name in (f"Sample Until Real, {METRICS[0]}", EXPANDED, JOINED):
        grown = []
        for count in (attempts, 4 * attempts):
            with bench_server() as server:
                warm, search = Search(server, kind, steps, 2), Search(server, kind, steps, count)
                warm.sides()[name](1)
                bench.digests(server)
                before = forget_peak(server.process.pid)
                search.sides()[name](1000)
                grown.append(peak(server.process.pid) - before)
        rows.append([name, *(f"{value:.0f}" for value in grown)])
    print(f"\nretry, tiny {kind}: growth of a fresh server's peak memory, MiB, after 2 attempts")
    print_table(["side", f"{attempts} attempts", f"{4 * attempts} attempts"], rows)
