"""Adapters beside the layers of a frozen network, and the network as it was afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor, nn

from .dora import check_readable
from .inference_weights import WeightAliases
from .lora_layer import LoraLayer
from .lora_plan import LoraConfig, plan_layers

__all__ = ["LoraAdapters", "LoraConfig", "LoraLayer", "attach"]

ALPHA_TOLERANCE = 1e-2  # what 16 bits may do to an alpha

Value = TypeVar("Value", bound=Tensor)


def attach(
    module: nn.Module, config: LoraConfig, seed: int, device: torch.device | str = "cpu"
) -> LoraAdapters:
    """Put adapters beside the chosen layers of a network and freeze it; `remove` undoes both.

    Each layer computes y = base(x) + scale B A x: base is the layer itself, so that ComfyUI's own layers,
    quantised or kept off the device, work as torch's do; the adapter goes by its input and output alone.
    module: holds the layers; none of its parameters asks for a gradient until `remove`. Weights from
    inference mode, ComfyUI's, are lent on the same memory (see `WeightAliases`): load the model before.
    config: see `LoraConfig`. seed: of A and of dropout; what a layer draws depends on seed and path, not on
    the other layers. device: where the parameters live; the one that computes, or each call moves
    them. B starts at 0: the output is that of the frozen network, bit for bit.

    Without autocast, A and B are computed in the dtype of the layer's input, under autocast in autocast's;
    the sum has the dtype of the layer's output. For the backward pass an adapter keeps x, A x, and A and B
    where they were cast. Dropout adds a masked x and a byte for each of its numbers. DoRA adds one tensor
    of the output's size and reads every weight once a call (see `row_lengths`), across devices where the
    weight is kept off the one that computes; the lengths that it divides by count as constants in the
    gradient (arXiv 2402.09353, 4.3).
    Raises ValueError, with nothing attached, as `plan_layers` and, for DoRA, `check_readable` do.
    """
    plans = plan_layers(module, config)
    if config.dora:
        for path, plan in plans.items():
            check_readable(path, plan.layer)
    place = torch.device(device)
    # what is made in inference mode, where ComfyUI runs nodes, cannot be trained
    with torch.inference_mode(False):
        adapters = {path: LoraLayer(path, plan, config, seed, place) for path, plan in plans.items()}
    return LoraAdapters(module, config, adapters)


class LoraAdapters:
    """The adapters of a network by path, in its order; as a context, removes them at the end."""

    def __init__(self, module: nn.Module, config: LoraConfig, layers: Mapping[str, LoraLayer]) -> None:
        """Put the adapters that `attach` made in place and freeze the network."""
        self.config = config
        self.layers = dict(layers)
        self._module = module
        self._aliases = WeightAliases(module)
        self._hooks = [
            adapter.layer.register_forward_hook(adapter.after, with_kwargs=True)
            for adapter in self.layers.values()
        ]
        self._frozen = [name for name, weight in module.named_parameters() if weight.requires_grad]
        self._ask_for_gradients(False)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by their names in `state_dict`, layer by layer."""
        return _merged(adapter.named_parameters() for adapter in self.layers.values())

    def parameters(self) -> list[nn.Parameter]:
        """Return the trained parameters, layer by layer."""
        return list(self.named_parameters().values())

    def rate_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Return the trained parameters with the factor on their learning rate, 1."""
        return [(1.0, self.parameters())]

    def train(self, mode: bool = True) -> LoraAdapters:
        """Switch dropout on or, with mode False, off; returns itself."""
        for adapter in self.layers.values():
            adapter.training = mode
        return self

    def begin_pass(self, number: int) -> None:
        """Say which forward pass of the training comes next: dropout goes by seed, path and number.

        number: 0 to 2^32 - 1. A resumed run so draws what an uninterrupted one does, and gradient
        checkpointing, which computes a layer twice, draws one mask both times, as long as each backward
        pass comes before the next number.
        """
        for adapter in self.layers.values():
            adapter.number = number

    @property
    def idle(self) -> list[str]:
        """Paths of the layers that no forward pass has called yet: their adapters learn nothing."""
        return [path for path, adapter in self.layers.items() if not adapter.called]

    def state_dict(self) -> dict[str, Tensor]:
        """Return `<path>.lora_A.weight`, `.lora_B.weight`, `.alpha` and, with DoRA, `.dora_scale`.

        Detached, not copied. The update of a weight is (alpha / rank) B A, as in kohya's files and ComfyUI;
        with rank stabilisation alpha has the factor sqrt(rank), so that this holds there too. dora_scale,
        [out, 1] or [out, 1, 1, 1], has the lengths of the updated weight's rows, as in PEFT.
        """
        return _merged(adapter.state_dict() for adapter in self.layers.values())

    def comfyui_dora_scales(self) -> dict[str, Tensor]:
        """Return `<path>.dora_scale` as ComfyUI applies it; empty without DoRA.

        ComfyUI (weight_decompose, 0.3.75 to 0.30.0) divides by the row lengths of the weight before the
        update; dora_scale |w| / |w + scale b A| makes it arrive at the trained weight. Reads the weights.
        """
        if not self.config.dora:
            return {}
        return {f"{path}.dora_scale": adapter.comfyui_dora_scale() for path, adapter in self.layers.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the tensors of a `state_dict`, in any float dtype, on any device.

        Raises ValueError, with nothing changed, where layers are missing or foreign or where shapes or
        scales differ; it names the tensor.
        """
        own = self.state_dict()
        missing = [name for name in own if name not in state]
        strange = [name for name in state if name not in own]
        if missing or strange:
            first = f"lack {missing[0]!r}" if missing else f"have {strange[0]!r}"
            raise ValueError(
                f"The saved adapters {first} ({len(missing)} tensors are missing, {len(strange)} unknown): "
                "they are for another model, other targets or another setting of DoRA. Use that run's."
            )
        for name, value in own.items():
            _compare(name, state[name], value)
        with torch.no_grad():
            for name, weight in self.named_parameters().items():
                weight.copy_(state[name])

    def remove(self) -> None:
        """Take the adapters off and let the network ask for gradients as before; twice is once.

        What was trained stays readable here. Hooks that others put on meanwhile stay where they are.
        """
        for hook in self._hooks:
            hook.remove()
        self._aliases.restore()
        self._ask_for_gradients(True)
        self._hooks, self._frozen = [], []

    def __enter__(self) -> LoraAdapters:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _ask_for_gradients(self, wanted: bool) -> None:
        # by name: ComfyUI may have put new parameters in place when it moved weights
        parameters = dict(self._module.named_parameters(remove_duplicate=False))
        for name in self._frozen:
            if name in parameters:
                # quantised tensors from inference mode change their flag in that mode only
                with torch.inference_mode(parameters[name].is_inference()):
                    parameters[name].requires_grad_(wanted)


def _compare(name: str, given: Tensor, own: Tensor) -> None:
    if not name.endswith(".alpha"):
        if given.shape != own.shape:
            raise ValueError(
                f"Saved tensor {name!r} has shape {list(given.shape)}, this layer's has {list(own.shape)}: "
                "it is for another model or rank. Use the model and the rank of that run."
            )
    elif given.numel() != 1 or not math.isclose(float(given), float(own), rel_tol=ALPHA_TOLERANCE):
        values = given.flatten().tolist()[:4]
        raise ValueError(
            f"Saved {name!r} is {values}, here it is {float(own):g}. Use the alpha, the rank and the rank "
            "stabilisation of that run."
        )


def _merged(parts: Iterable[dict[str, Value]]) -> dict[str, Value]:
    return {name: value for part in parts for name, value in part.items()}
