"""A network of SD3's kind with an adapter, trained on drawn faces, and what they make, in ComfyUI's process.

Run as COMFYUI_DIR BASE JSON by _adapter_runs.py. JSON: folder, where the faces lie as `read_faces` reads
them; made, the file to write; and what `trained` and `sampled` read of it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
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


def new_network(path: Path, heads: int, seed: int) -> None:
    """Write a network in SD3's layout with first weights; it has as many blocks as heads."""
    import torch
    from comfy import ops
    from comfy.ldm.modules.diffusionmodules import mmdit
    from safetensors.torch import save_file
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
    save_file({name: weight.clone() for name, weight in network.state_dict().items()}, path)


class Everything:
    """A whole network and an adapter, trained as one: a `realism_core.training.denoiser.Trainable`."""

    def __init__(self, network: Any, adapter: Any) -> None:
        self.network, self.adapter = network.requires_grad_(True), adapter

    def parameters(self) -> list[Any]:
        return [*self.network.parameters(), *self.adapter.parameters()]

    def rate_groups(self) -> list[tuple[float, list[Any]]]:
        return [(1.0, self.parameters())]

    def state_dict(self) -> dict[str, Any]:
        own = {f"network.{name}": weight.detach() for name, weight in self.network.state_dict().items()}
        return own | self.adapter.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        known = self.adapter.state_dict()
        self.adapter.load_state_dict({name: state[name] for name in known})
        self.network.load_state_dict(
            {name.removeprefix("network."): weight for name, weight in state.items() if name not in known}
        )

    def train(self, mode: bool = True) -> Everything:
        self.adapter.train(mode)
        return self

    def begin_pass(self, number: int) -> None:
        self.adapter.begin_pass(number)


def loaded(path: Path) -> Any:
    """Return the network of a file in models/diffusion_models as a MODEL whose weights can learn."""
    import nodes

    # not by ComfyUI's executor, under which they cannot
    kinds = nodes.NODE_CLASS_MAPPINGS
    (plain,) = kinds["UNETLoader"]().load_unet(path.name, "default")
    return kinds["ModelSamplingSD3"]().patch(plain, SHIFT)[0]


def trained(wanted: dict[str, Any]) -> tuple[Any, Any, list[float]]:
    """Return (the MODEL, the adapter's file, the losses) of a training of both from first weights on.

    heads: of the network. config: of the adapter. settings: of the training. dropout, unknown: of the
    adapter. noise: the mean of the logit of the noise levels. network, checkpoint: files; from the latter a
    training goes on that was broken off.
    """
    import torch

    core, pack = "realism_core.training.", of_pack("nodes.adapter_training")
    new_network(Path(wanted["network"]), wanted["heads"], wanted["settings"]["seed"])
    plain = loaded(Path(wanted["network"]))
    model = of_pack("nodes.training_model").TrainableModel(plain)
    latents, attributes, mask = said_of(wanted["folder"], "training")
    config = pack.adapter_config(model, nothing_said()[0][0], **wanted["config"])
    module = of_pack("realism_core.conditioning.adapter").TokenAdapter(config, wanted["settings"]["seed"])
    examples = of_pack("nodes.training").examples(model, [{"samples": latents}], [nothing_said()], None, None)
    words = examples[0].conditioning
    examples = pack.adapter_examples(
        module, examples, attributes if module.attributes else None, [mask] if module.mask else None
    )
    adapter = of_pack(f"{core}adapter_training").TrainableAdapter(
        module, wanted["settings"]["seed"], wanted["dropout"], wanted["unknown"]
    )
    levels = of_pack(f"{core}timesteps").TimestepSampler("logit_normal", mean=wanted["noise"])
    weight = replace(of_pack(f"{core}loop").PLAIN, timesteps=levels)
    both, checkpoint = Everything(model.module, adapter), Path(wanted["checkpoint"])
    result = of_pack(f"{core}loop").train(
        pack.AdapterTrainableModel(model, adapter), both, of_pack(f"{core}data").Dataset(examples),
        of_pack(f"{core}settings").TrainSettings(**wanted["settings"]), weight,
        empty_conditioning={"words": words, "attributes": None, "planes": None},
        checkpoint=checkpoint, resume=checkpoint if checkpoint.is_file() else None, on_step=_tell,
    )  # fmt: skip
    with torch.no_grad():
        both.load_state_dict(result.state)
    both.network.requires_grad_(False)
    file = of_pack("realism_core.conditioning.adapter_file").AdapterFile(module.requires_grad_(False), {})
    return plain, file, list(result.losses)


def sampled(model: Any, adapter: Any, wanted: dict[str, Any]) -> Any:
    """Return latents of the held-out faces' conditions, by ComfyUI's sampler.

    sample: seed, steps, cfg and batch.
    """
    import torch

    import nodes

    latents, attributes, masks = said_of(wanted["folder"], "held_out")
    apply, module = of_pack("nodes.adapters").apply_adapter, adapter.adapter
    words, sample, made = nothing_said(), wanted["sample"], []
    for first in range(0, len(latents), sample["batch"]):
        rows = range(first, min(first + sample["batch"], len(latents)))
        prompts = [
            apply(
                adapter, words, words,
                attributes[row] if module.attributes else None,
                masks[row : row + 1] if module.mask else None,
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
    if progress.step % 500 == 0 and progress.losses:
        print(f"  step {progress.step}, loss {progress.losses[-1]:.3f}", file=sys.stderr, flush=True)


def main() -> None:
    """Train, sample, and write the latents to "made" with the losses."""
    folder, base, wanted = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    sys.path[:] = [str(Path(__file__).resolve().parent), str(ROOT), *sys.path]
    from _train_child import boot

    from devtools.run_comfy import DeclareOperators

    sys.meta_path.insert(0, DeclareOperators())
    boot(folder, base, [ROOT, folder / ADVANCED])
    import torch
    from comfy.utils import set_progress_bar_global_hook
    from safetensors.torch import save_file

    set_progress_bar_global_hook(None)  # it would tell a browser
    torch.set_num_threads(1)
    model, adapter, losses = trained(wanted)
    with torch.inference_mode():
        made = sampled(model, adapter, wanted)
    told = {"latents": made.clone().contiguous(), "losses": torch.tensor(losses)}
    save_file(told, wanted["made"])
    sys.stderr.flush()
    os._exit(0)  # ComfyUI's threads are not waited for


if __name__ == "__main__":
    main()
