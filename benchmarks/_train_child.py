"""One training in a process of its own: ComfyUI without its HTTP server, its own executor, and one node.

Run by benchmarks/train_lora.py: COMFYUI_DIR BASE JSON, where JSON has node (its id), inputs (its widgets),
checkpoint, latent (its shape), width, pooled and tokens (of the conditioning), pack (this pack's folder),
diffs (false: the peer trains no norms and biases), threads (0: torch's own). The last line of the output
is the answer, see `measured`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS = "comfy_extras/nodes_train.py"


def boot(root: Path, base: Path, packs: list[Path]) -> Any:
    """Return an executor of ComfyUI that knows its basic nodes, its trainer's and those of the packs."""
    sys.path[:] = [str(root), *(place for place in sys.path[1:] if Path(place or ".").resolve() != ROOT)]
    arguments, sys.argv = sys.argv, ["main.py", "--cpu", "--base-directory", str(base)]
    import main
    import server
    from execution import CacheType, PromptExecutor

    import nodes

    sys.argv = arguments
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    served = server.PromptServer(loop)
    served.send_sync = lambda *message: None  # nobody listens
    for place in (root / PEERS, *packs):
        if not loop.run_until_complete(nodes.load_custom_node(str(place))):
            raise RuntimeError(f"ComfyUI could not load {place}")
    main.hijack_progress(served)
    caches = {"lru": 0, "ram": 0, "ram_inactive": 0}
    return PromptExecutor(served, cache_type=CacheType.CLASSIC, cache_args=caches)


def add_nodes(wanted: dict[str, Any]) -> None:
    """Make two nodes known: what is trained on, and what takes in what was trained."""
    import torch
    from comfy_api.latest import io

    import nodes

    class BenchExamples(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            outputs = [io.Latent.Output(), io.Conditioning.Output()]
            return io.Schema(node_id="BenchExamples", category="test", inputs=[], outputs=outputs)

        @classmethod
        def execute(cls) -> io.NodeOutput:
            dice = torch.Generator().manual_seed(1)
            extras = {"pooled_output": torch.randn(1, wanted["pooled"], generator=dice)}
            words = torch.randn(1, wanted["tokens"], wanted["width"], generator=dice)
            latents = {"samples": torch.randn(wanted["latent"], generator=dice)}
            return io.NodeOutput(latents, [[words, extras if wanted["pooled"] else {}]])

    class BenchEnd(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            inputs = [io.AnyType.Input(f"input{number}", optional=True) for number in range(3)]
            return io.Schema(
                node_id="BenchEnd", category="test", inputs=inputs, outputs=[], is_output_node=True
            )

        @classmethod
        def execute(cls, input0=None, input1=None, input2=None) -> io.NodeOutput:
            taken[:] = [input0, input1, input2]
            return io.NodeOutput()

    taken = add_nodes.taken = []
    nodes.NODE_CLASS_MAPPINGS.update(BenchExamples=BenchExamples, BenchEnd=BenchEnd)


def execute(executor: Any, graph: dict[str, Any]) -> None:
    """Run a graph; raises RuntimeError with ComfyUI's words if it is refused or fails."""
    import execution

    number = str(time.monotonic_ns())
    valid, error, outputs, why = asyncio.run(execution.validate_prompt(number, graph, None))
    if not valid:
        raise RuntimeError(f"ComfyUI refuses the graph: {error} {why}")
    executor.execute(graph, number, {}, outputs)
    if not executor.success:
        errors = [data for event, data in executor.status_messages if event == "execution_error"]
        told = [(data["node_type"], *data["traceback"], data["exception_message"]) for data in errors]
        raise RuntimeError("\n".join(line for lines in told for line in lines))


def without_diffs() -> None:
    """Let ComfyUI's trainer leave out what it trains of norms and biases."""
    from comfy.model_patcher import ModelPatcher

    add = ModelPatcher.add_weight_wrapper

    def add_others(self, name, function) -> None:
        if type(function).__name__ != "BiasDiff":
            add(self, name, function)

    ModelPatcher.add_weight_wrapper = add_others


def measured(executor: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return what a training took, measured alike for every node.

    clock, cpu: of the process at the end of each step, in seconds, as the node's progress bar moves. before:
    its memory in MiB with the model and the data in place; peak: the most during the training. layers: of
    the adapted layers a digest and their number; trained: numbers that it trains; rows: images that
    the network saw in one call; loss: of each step.
    """
    import torch
    from _rounds import forget_peak, peak
    from comfy.utils import ProgressBar

    if wanted["threads"]:
        torch.set_num_threads(wanted["threads"])
    if not wanted["diffs"]:
        without_diffs()
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": wanted["checkpoint"]}},
        "2": {"class_type": "BenchExamples", "inputs": {}},
        "3": {"class_type": "BenchEnd", "inputs": {"input0": ["1", 0], "input1": ["2", 0]}},
    }
    execute(executor, graph)
    rows = _count_rows(add_nodes.taken[0].model)
    given = {"model": ["1", 0], "latents": ["2", 0], "positive": ["2", 1], **wanted["inputs"]}
    graph["4"] = {"class_type": wanted["node"], "inputs": given}
    first = 1 if wanted["node"].startswith("Realism") else 0  # ours hands on the model before the LoRA
    graph["3"]["inputs"].update({"input1": ["4", first], "input2": ["4", first + 1]})
    before, clock, cpu = forget_peak(), [], []
    show = ProgressBar.update_absolute

    def tick(self, *args, **kwargs) -> None:
        show(self, *args, **kwargs)
        clock.append(time.perf_counter())
        cpu.append(time.process_time())

    # not its hook, which is called a few times a second at most
    ProgressBar.update_absolute = tick
    execute(executor, graph)
    most, (_, lora, losses) = peak(), add_nodes.taken
    named = {name: tensor for name, tensor in lora.items() if not name.endswith("alpha")}
    layers = sorted(name.rpartition(".lora_up")[0] for name in named if ".lora_up" in name)
    return {
        "clock": clock,
        "cpu": cpu,
        "before": before,
        "peak": most,
        "layers": [hashlib.sha256(json.dumps(layers).encode()).hexdigest()[:12], len(layers)],
        "trained": sum(tensor.numel() for name, tensor in named.items() if _trained(name, wanted)),
        "rows": max(rows),
        "loss": [float(value) for value in losses["loss"]],
        "threads": torch.get_num_threads(),
    }


def _trained(name: str, wanted: dict[str, Any]) -> bool:
    return wanted["diffs"] or ".diff" not in name


def _count_rows(model: Any) -> set[int]:
    """Take down how many images go through a model's network at once, its copies' too."""
    rows: set[int] = set()
    kind = type(model.diffusion_model)
    forward = kind.forward

    def counted(self, x, *args, **kwargs):
        rows.add(len(x))
        return forward(self, x, *args, **kwargs)

    kind.forward = counted
    return rows


def main() -> None:
    """Answer with one line of JSON."""
    folder, base, wanted = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    sys.path.append(str(ROOT))
    from devtools.run_comfy import DeclareOperators

    sys.meta_path.insert(0, DeclareOperators())
    executor = boot(folder, base, [Path(pack) for pack in wanted["packs"]])
    sys.path.append(str(Path(__file__).resolve().parent))
    add_nodes(wanted)
    print(json.dumps(measured(executor, wanted)), flush=True)
    os._exit(0)  # ComfyUI's threads are not waited for


if __name__ == "__main__":
    main()
