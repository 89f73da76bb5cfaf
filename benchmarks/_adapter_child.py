"""The generator of benchmarks/adapter.py in a process with ComfyUI: its start, an adapter, what it samples.

Run as COMFYUI_DIR BASE JSON by _adapter_runs.py. JSON: what, see `start` and `adapter`; folder, where the
faces lie as `read_faces` reads them; and what these functions read of it. The last line of the output is the
answer, the losses.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NETWORK = "drawn-faces.safetensors"  # in models/diffusion_models
ADVANCED = "comfy_extras/nodes_model_advanced.py"
CONTEXT, POOLED = 128, 32  # numbers of the one word, which says nothing, and of its pooled form
SHIFT = 1.5  # of the flow's noise levels: latents are small, and come to a deviation of 1.5
HEAD, PATCH, CHANNELS, PLACES = 64, 2, 16, 8
_GATE = 0.3  # how much of a block's output there is at the start


def read_faces(folder: Path, name: str) -> tuple[Any, list[dict[str, float]], Any]:
    """Return latents [n,16,16,16], strengths by attribute, and labels uint8 [n,64,64] of a set of faces."""
    from safetensors.torch import load_file

    tensors = load_file(folder / f"{name}.safetensors")
    said = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return tensors["latents"], said, tensors["labels"]


def of_pack(name: str) -> ModuleType:
    """Return a module of the pack as ComfyUI loaded it."""
    import nodes

    whole = nodes.NODE_CLASS_MAPPINGS["RealismTrainAdapter"].__module__
    return import_module(f"{whole.rpartition('.nodes.')[0]}.{name}")


def nothing_said() -> list:
    """Return the conditioning of every face: one word, the same for all."""
    import torch

    dice = torch.Generator().manual_seed(0)
    pooled = torch.zeros(1, POOLED)
    return [[torch.randn(1, 1, CONTEXT, generator=dice), {"pooled_output": pooled}]]


def said_of(folder: str, name: str) -> tuple[Any, list, Any]:
    """Return (latents, attributes, mask) of a set of faces in the pack's own classes."""
    latents, attributes, labels = read_faces(Path(folder), name)
    one = of_pack("realism_core.conditioning.attributes").FaceAttributes
    mask = of_pack("realism_core.conditioning.masks").SemanticMask
    return latents, [one(strengths) for strengths in attributes], mask.from_labels(labels)


def add_nodes(wanted: dict[str, Any]) -> dict[str, Any]:
    """Make two nodes known: the faces, and what samples with what was trained; returns where that lies."""
    from comfy_api.latest import io

    import nodes

    class BenchFaces(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            said = [
                io.Custom("FACE_ATTRIBUTES").Output(is_output_list=True),
                io.Custom("SEMANTIC_MASK").Output(),
            ]
            outputs = [io.Latent.Output(), io.Conditioning.Output(), *said]
            return io.Schema(node_id="BenchFaces", category="test", inputs=[], outputs=outputs)

        @classmethod
        def execute(cls) -> io.NodeOutput:
            latents, attributes, mask = said_of(wanted["folder"], "training")
            return io.NodeOutput({"samples": latents}, nothing_said(), attributes, mask)

    class BenchEnd(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            inputs = [io.AnyType.Input(name) for name in ("model", "adapter", "losses")]
            return io.Schema(
                node_id="BenchEnd", category="test", inputs=inputs, outputs=[], is_output_node=True
            )

        @classmethod
        def execute(cls, model, adapter, losses) -> io.NodeOutput:
            taken.update(made=sampled(model, adapter, wanted), losses=losses)
            return io.NodeOutput()

    taken: dict[str, Any] = {}
    nodes.NODE_CLASS_MAPPINGS.update(BenchFaces=BenchFaces, BenchEnd=BenchEnd)
    return taken


def new_network(path: Path, heads: int, seed: int) -> None:
    """Write a network in SD3's layout with first weights; it has as many blocks as heads."""
    import torch
    from comfy import ops
    from comfy.ldm.modules.diffusionmodules import mmdit
    from torch import nn

    width = HEAD * heads
    words = {"target": "torch.nn.Linear", "params": {"in_features": CONTEXT, "out_features": width}}
    network = mmdit.OpenAISignatureMMDITWrapper(
        patch_size=PATCH, in_channels=CHANNELS, depth=heads, adm_in_channels=POOLED,
        context_embedder_config=words, num_patches=PLACES**2, pos_embed_max_size=PLACES, input_size=None,
        dtype=torch.float32, device="cpu", operations=ops.disable_weight_init,
    )  # fmt: skip
    dice = torch.Generator().manual_seed(seed)
    for name, weight in network.named_parameters():
        silent = weight.ndim < 2 or "adaLN" in name or "final_layer" in name
        size = 0.0 if silent else weight[0].numel() ** -0.5
        nn.init.normal_(weight, 0.0, size, generator=dice) if size else nn.init.zeros_(weight)
    for block in network.joint_blocks:
        for stream in (block.x_block, block.context_block):
            bias = stream.adaLN_modulation[1].bias.data
            for gate in (2, 5) if len(bias) == 6 * width else ():
                bias[gate * width : (gate + 1) * width] = _GATE
    places = mmdit.get_2d_sincos_pos_embed_torch(width, PLACES, PLACES)
    network.pos_embed = places.reshape(1, PLACES**2, width).float()
    _write(path, network.state_dict())


def start(executor: Any, wanted: dict[str, Any]) -> list[float]:
    """Train the whole network on the faces without a word said of them; write it to wanted["network"].

    heads: of the network; settings: of the training.
    """
    from _p2_model import WholeNetwork

    import nodes

    path = Path(wanted["network"])
    new_network(path, wanted["heads"], wanted["settings"]["seed"])
    # not by ComfyUI's executor, under which weights cannot learn
    kinds = nodes.NODE_CLASS_MAPPINGS
    (plain,) = kinds["UNETLoader"]().load_unet(NETWORK, "default")
    (shifted,) = kinds["ModelSamplingSD3"]().patch(plain, SHIFT)
    model = of_pack("nodes.training_model").TrainableModel(shifted)
    latents = {"samples": said_of(wanted["folder"], "training")[0]}
    examples = of_pack("nodes.training").examples(model, [latents], [nothing_said()], None, None)
    result = of_pack("realism_core.training.loop").train(
        model, WholeNetwork(model.module.requires_grad_(True)),
        of_pack("realism_core.training.data").Dataset(examples),
        of_pack("realism_core.training.settings").TrainSettings(**wanted["settings"]),
        on_step=_tell,
    )  # fmt: skip
    _write(path, result.state)
    return list(result.losses)


def adapter(executor: Any, wanted: dict[str, Any]) -> list[float]:
    """Train with Realism Train Adapter; write what it then samples for the held-out faces to wanted["made"].

    inputs: the node's widgets. attributes, mask: whether these are connected, and asked for. sample: seed,
    steps, cfg, batch.
    """
    from _train_child import execute
    from safetensors.torch import save_file

    taken = add_nodes(wanted)
    said = {name: ["3", place] for name, place in (("attributes", 2), ("mask", 3)) if wanted[name]}
    fixed = {"model": ["2", 0], "latents": ["3", 0], "positive": ["3", 1]}
    trained = {"model": ["4", 1], "adapter": ["4", 0], "losses": ["4", 2]}
    graph = {
        "1": ("UNETLoader", {"unet_name": NETWORK, "weight_dtype": "default"}),
        "2": ("ModelSamplingSD3", {"model": ["1", 0], "shift": SHIFT}),
        "3": ("BenchFaces", {}),
        "4": ("RealismTrainAdapter", {**fixed, **said, **wanted["inputs"]}),
        "5": ("BenchEnd", trained),
    }
    execute(executor, {key: {"class_type": kind, "inputs": given} for key, (kind, given) in graph.items()})
    save_file({"latents": taken["made"].contiguous()}, wanted["made"])
    return list(taken["losses"]["loss"])


def sampled(model: Any, adapter: Any, wanted: dict[str, Any]) -> Any:
    """Return latents of the held-out faces' conditions, by ComfyUI's sampler."""
    import torch

    import nodes

    latents, attributes, masks = said_of(wanted["folder"], "held_out")
    apply = of_pack("nodes.adapters").apply_adapter
    words, sample, made = nothing_said(), wanted["sample"], []
    for first in range(0, len(latents), sample["batch"]):
        rows = range(first, min(first + sample["batch"], len(latents)))
        prompts = [
            apply(
                adapter, words, words,
                attributes[row] if wanted["attributes"] else None,
                masks[row : row + 1] if wanted["mask"] else None,
            )
            for row in rows
        ]  # fmt: skip
        positive, negative = (_together([one[side] for one in prompts]) for side in (0, 1))
        empty = {"samples": torch.zeros_like(latents[first : first + len(rows)])}
        (done,) = nodes.common_ksampler(
            model, sample["seed"] + first, sample["steps"], sample["cfg"], "euler", "simple",
            positive, negative, empty,
        )  # fmt: skip
        made.append(done["samples"])
    return torch.cat(made)


def _together(prompts: list[list]) -> list:
    """Return prompts of one picture each as one of a batch."""
    import torch

    extras = dict(prompts[0][0][1])
    extras["pooled_output"] = extras["pooled_output"].expand(len(prompts), -1)
    extras.pop("cross_attn_controlnet", None)
    return [[torch.cat([prompt[0][0] for prompt in prompts]), extras]]


def _tell(progress: Any) -> None:
    if progress.step % 50 == 0 and progress.losses:
        print(f"  step {progress.step}, loss {progress.losses[-1]:.3f}", file=sys.stderr, flush=True)


def _write(path: Path, state: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    part = path.with_suffix(f".{os.getpid()}.part")
    save_file({name: value.detach().clone().contiguous() for name, value in state.items()}, part)
    os.replace(part, path)


def main() -> None:
    """Answer with one line of JSON."""
    folder, base, wanted = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    sys.path[:] = [str(Path(__file__).resolve().parent), str(ROOT), *sys.path]
    from _train_child import boot

    from devtools.run_comfy import DeclareOperators

    sys.meta_path.insert(0, DeclareOperators())
    executor = boot(folder, base, [ROOT, folder / ADVANCED])
    sys.path += [str(ROOT), str(Path(__file__).resolve().parent)]
    import torch

    torch.set_num_threads(1)
    losses = {"start": start, "adapter": adapter}[wanted["what"]](executor, wanted)
    print(json.dumps(losses), flush=True)
    os._exit(0)  # ComfyUI's threads are not waited for


if __name__ == "__main__":
    main()
