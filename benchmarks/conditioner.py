"""What attributes bound to six regions add to a sampling step, beside ComfyUI's own mask conditioning.

All ways sample the same latent with the same prompt and guidance, in turn; the networks are small, with
random weights. Mask conditioning is built of ComfyUI's own nodes: a prompt with the phrase for each region,
Set Conditioning Mask, and Combine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

from safetensors.torch import save_file

from benchmarks import _bench_server as bench
from benchmarks._bench_server import Graph, bench_server
from benchmarks._rounds import in_turn, machine, print_table, spread, versus
from devtools.server import ComfyServer
from realism_core.conditioning.attributes import parse_attributes
from realism_core.conditioning.vocabulary import BY_NAME
from tests import tiny_vae
from tests.comfy.graphs import Node
from tests.comfy.test_face_nodes import label_map
from tests.core.faces import face
from tests.tiny_layouts import Weights, unet
from tests.tiny_models import CONDITIONING, SEED, link_checkpoint

PROMPT, NEGATIVE = "a photo of a person", "drawing"
# hair, eyes, brows, lips, nose, ears: six regions
NAMES = ("Blond_Hair", "Narrow_Eyes", "Bushy_Eyebrows", "Wearing_Lipstick", "Big_Nose", "Wearing_Earrings")
PLAIN, COUPLED, MASKS = "plain prompt", "attention coupling", "ComfyUI's mask conditioning"
TWO_LEVELS, SD3 = "sd15, two levels", "sd3"
# layout, side of the picture, steps a run
CASES = ((TWO_LEVELS, 256, 4), (TWO_LEVELS, 384, 3), (SD3, 512, 150), (SD3, 1024, 15))


class Sampled:
    """The graphs of one case."""

    def __init__(self, server: ComfyServer, layout: str, side: int, steps: int) -> None:
        self.server, self.side, self.steps = server, side, steps
        kind = "sd3" if layout == SD3 else "sd15_noclip"
        self.conditioning = CONDITIONING[kind]
        self.checkpoint = link_checkpoint(server.base, "sd3") if layout == SD3 else _two_levels(server)
        self.calls: dict[str, list[int]] = {}

    def sides(self) -> dict[str, Callable[[int], float]]:
        """Return the ways, called with the round."""
        return {name: partial(self._timed, name) for name in (PLAIN, COUPLED, MASKS)}

    def _timed(self, name: str, number: int) -> float:
        """Return ms a step that the server's processors spent, which other programs hardly change."""
        graph = Graph()
        model = graph.add("CheckpointLoaderSimple", ckpt_name=self.checkpoint)[0]
        width, pooled = self.conditioning
        clip = graph.add("TestWords", width=width, pooled=pooled)
        positive, negative = (
            graph.add("CLIPTextEncode", clip=clip, text=text) for text in (PROMPT, NEGATIVE)
        )
        mask = graph.add("RealismFaceMask", label_map=label_map(graph, self.server, face(256, 256).numpy()))
        if name == COUPLED:
            said = graph.add("RealismFaceAttributes", attributes=", ".join(NAMES))
            widgets = bench.defaults(self.server, "RealismConditioner")
            node = graph.add(
                "RealismConditioner", **widgets, attributes=said["attributes"], mask=mask["mask"], clip=clip,
                positive=positive, negative=negative, model=model,
            )  # fmt: skip
            model, positive, negative = node["model"], node["positive"], node["negative"]
        if name == MASKS:
            positive = _by_masks(graph, clip, positive, mask)
        counted = f"{self.checkpoint} {name}"
        model = graph.add("TestCalls", model=model, name=counted)
        latent = graph.add("EmptyLatentImage", width=self.side, height=self.side, batch_size=1)
        sampled = graph.add(
            "KSampler", model=model, positive=positive, negative=negative, latent_image=latent,
            seed=100 + number, steps=self.steps, cfg=5.0, sampler_name="euler", scheduler="simple",
            denoise=1.0,
        )  # fmt: skip
        tell = graph.add("TestCallsTold", samples=sampled, name=counted)
        ran = bench.run(self.server, graph)
        if sampled.id in ran.cached:
            raise RuntimeError("the cache answered in place of the sampler")
        self.calls[name] = bench.told(ran, tell.id)
        return 1e3 * ran.cpu / self.steps


def measure(repeats: int, layouts: Sequence[str]) -> None:
    """Print what a step takes with each way on the cases of some layouts."""
    with bench_server() as server:
        print(machine())
        for layout, side, steps in CASES:
            if layout not in layouts:
                continue
            sampled = Sampled(server, layout, side, steps)
            times = in_turn(sampled.sides(), repeats)
            print(
                f"\n{layout}, {side} x {side}, {len(NAMES)} regions, guidance, {repeats} "
                f"rounds of {steps} steps: processor ms a step, median (least..most)"
            )
            rows = []
            for name, values in times.items():
                calls = sampled.calls[name]
                ratio = versus(values, times[PLAIN], lambda own, plain: own / plain)
                passes = f"{sum(calls) / steps:g} in {len(calls) / steps:g}"
                rows.append([name, spread(values), spread(ratio, ".2f"), passes])
            print_table(["way", "ms a step", "times plain", "pictures a step in calls"], rows)


def _by_masks(graph: Graph, clip: Node, positive: Node, mask: Node) -> Node:
    """Return the prompt combined with one for each region, with ComfyUI's own nodes."""
    for name in NAMES:
        ((_, phrase, _),) = parse_attributes(name).phrases()
        parts = graph.add(
            "RealismFaceMaskParts", mask=mask["mask"], parts=", ".join(BY_NAME[name].regions)
        )
        words = graph.add("CLIPTextEncode", clip=clip, text=f"{PROMPT} {phrase}")
        bound = graph.add(
            "ConditioningSetMask", conditioning=words, mask=parts["mask"], strength=1.0,
            set_cond_area="default",
        )  # fmt: skip
        positive = graph.add("ConditioningCombine", conditioning_1=positive, conditioning_2=bound)
    return positive


def _two_levels(server: ComfyServer) -> str:
    """Write a network of SD1.5's layout with two levels into the server's folder; returns its name."""
    weights = Weights(SEED)
    unet(weights, depths=(1, 1), context=CONDITIONING["sd15_noclip"].width)
    for name, tensor in tiny_vae.vae_file("random", SEED, 4).items():
        weights.tensors[f"first_stage_model.{name}"] = tensor.half()
    file = server.base / "models" / "checkpoints" / "two-levels.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in weights.tensors.items()}, file)
    return file.name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layout", choices=(TWO_LEVELS, SD3), help="only this one (default: both)")
    options = parser.parse_args()
    measure(options.repeats, [options.layout] if options.layout else [TWO_LEVELS, SD3])
