"""Test nodes around weights that ComfyUI keeps quantised or partly off the device."""

from __future__ import annotations

import hashlib
import json

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from .vaes import pack_module

try:
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
except ImportError:
    QUANT_ALGOS = {}

NETWORK = "model.diffusion_model."
# a text of 768 or 2048 numbers that only these layers read tells ComfyUI the family
KEPT = ("attn2.to_k",)
SCALED = ("float8_e4m3fn", "float8_e5m2", "nvfp4")


class TestQuantisedModel(io.ComfyNode):
    """Load a checkpoint's network with the weights of its blocks quantised as files of that form have them.

    form: one of ComfyUI's formats; scaled_fp8: with its older names; smooth_nvfp4: with a scale of the input;
    fp8_stored: unscaled, as Load Diffusion Model's weight_dtype has it; spare: as they are, and a layer more
    that nothing calls. fast: quantise the input as well, as
    ComfyUI does on devices that multiply such numbers.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestQuantisedModel",
            category="test",
            inputs=[io.String.Input("ckpt_name"), io.String.Input("form"), io.Boolean.Input("fast")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, ckpt_name, form, fast) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("checkpoints", ckpt_name)
        tensors = {
            name.removeprefix(NETWORK): weight
            for name, weight in comfy.utils.load_torch_file(path).items()
            if name.startswith(NETWORK)
        }
        options = {}
        if form == "fp8_stored":
            options["dtype"] = torch.float8_e4m3fn
        elif form != "spare":
            tensors = quantised(tensors, form)
        model = comfy.sd.load_diffusion_model_state_dict(tensors, model_options=options)
        if form == "spare":
            model.model.diffusion_model.spare = torch.nn.Linear(8, 8)
        if fast:
            for part in model.model.modules():
                if hasattr(part, "_full_precision_mm"):
                    part._full_precision_mm = False
        return io.NodeOutput(model)


def quantised(tensors, form):
    """Return a network's tensors with the matrices of its blocks in a form."""
    made = {}
    for name, weight in tensors.items():
        layer = name.removesuffix(".weight")
        if layer == name or weight.ndim != 2 or "block" not in name or layer.endswith(KEPT):
            made[name] = weight
        elif form == "scaled_fp8":
            scale = weight.float().abs().max() / 448
            made[name] = (weight.float() / scale).to(torch.float8_e4m3fn)
            made[f"{layer}.scale_weight"] = scale
            made["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
        else:
            made |= _in_format(layer, weight.float(), form)
    return made


def _in_format(layer, weight, form):
    smooth = form == "smooth_nvfp4"
    form = form.removeprefix("smooth_")
    conf = {"format": form}
    options = {"scale": "recalculate"} if form in SCALED else {}
    if form == "convrot_w4a4":
        conf["convrot_groupsize"] = options["convrot_groupsize"] = 64
    packed = QuantizedTensor.from_float(weight, QUANT_ALGOS[form]["comfy_tensor_layout"], **options)
    made = dict(packed.state_dict(f"{layer}.weight"))
    made[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(conf).encode()), dtype=torch.uint8)
    if smooth:
        made[f"{layer}.pre_quant_scale"] = torch.linspace(0.5, 1.5, weight.shape[1])
    return made


class TestWeightDigest(io.ComfyNode):
    """Tell a digest of every byte of a model's weights, scales and buffers, and what kinds they are.

    Passes the model on, so that what comes next waits. after: any output to wait for.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestWeightDigest",
            category="test",
            is_output_node=True,
            inputs=[io.Model.Input("model"), io.AnyType.Input("after", optional=True)],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, after=None) -> io.NodeOutput:
        inner_tensors = pack_module("realism_core.training.inference_weights").inner_tensors
        digest, kinds = hashlib.sha256(), set()

        def add(name, tensor):
            parts = inner_tensors(tensor)
            for part in parts:
                add(f"{name}.{part}", parts[part])
            kinds.add(f"{type(tensor).__name__} {tensor.dtype}")
            digest.update(f"{name} {type(tensor)} {tensor.is_inference()} {tensor.requires_grad}".encode())
            if not parts:
                raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
                digest.update(raw.cpu().numpy().tobytes())

        network = model.model
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            add(name, tensor)
        # bypass LoRAs leave a layer's own method behind on it
        changed = [
            name
            for name, part in network.named_modules()
            if vars(part).get("forward") not in (None, type(part).forward.__get__(part))
        ]
        hooked = [
            name for name, part in network.named_modules() if part._forward_hooks or part._forward_pre_hooks
        ]
        patched = sum(bool(getattr(part, "weight_function", ())) for part in network.modules())
        if model.injections:
            changed = []
        told = {
            "digest": digest.hexdigest(),
            "kinds": sorted(kinds),
            "changed": changed + hooked,
            "patched_at_call": patched,
        }
        return io.NodeOutput(model, ui={"text": (json.dumps(told),)})


class _SmallDevice(comfy.model_patcher.ModelPatcher):
    """A model whose device holds `budget` bytes of weights, whatever ComfyUI would load."""

    budget = 0.0

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        if self.model.model_lowvram and self.model.current_weight_patches_uuid == self.patches_uuid:
            return 0
        self.unpatch_model(self.offload_device, unpatch_weights=True)
        return super().partially_load(device_to, self.budget, force_patch_weights)


class TestPartlyLoaded(io.ComfyNode):
    """Let a model be loaded in part only: the other layers get their weights, and LoRAs on them, per call."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestPartlyLoaded",
            category="test",
            inputs=[io.Model.Input("model"), io.Float.Input("budget", max=1e12)],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, budget) -> io.NodeOutput:
        small = model.clone()
        small.__class__ = type("_SmallDevice", (_SmallDevice,), {"budget": budget})
        return io.NodeOutput(small)


class TestRoom(io.ComfyNode):
    """Tell what memory the trainer asks ComfyUI for, and what it says of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestRoom",
            category="test",
            is_output_node=True,
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                io.Latent.Input("latents"),
                io.Boolean.Input("recompute"),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, model, positive, latents, recompute) -> io.NodeOutput:
        core, checks = pack_module("realism_core.training.memory"), pack_module("nodes.training_checks")
        trainable = pack_module("nodes.training_model").TrainableModel(model)
        words = pack_module("nodes.training").plain_conditioning(positive)
        data = pack_module("realism_core.training.data")
        dataset = data.Dataset(data.pair(trainable.latents(latents["samples"]), [words]))
        settings = pack_module("realism_core.training.settings").TrainSettings(
            1, batch_size=2, recompute=recompute
        )
        config = pack_module("realism_core.training.lora").LoraConfig(rank=4, alpha=4.0)
        memory = core.estimate(trainable.module, config, dataset, settings)
        management, asked = comfy.model_management, []
        load = management.load_models_gpu

        def recorded(models, memory_required=0, **options):
            asked.append(memory_required)
            return load(models, memory_required=memory_required, **options)

        management.load_models_gpu = recorded
        try:
            text = checks.make_room(trainable, memory, dataset, settings)
        finally:
            management.load_models_gpu = load
        forward = model.model.memory_required([2, *latents["samples"].shape[1:]])
        told = {"asked": asked, "beside": memory.beside_model, "forward": forward, "text": text}
        return io.NodeOutput(ui={"text": (json.dumps(told),)})


class TestFreeMemory(io.ComfyNode):
    """Let the trainer see so many bytes free on every device, from now on; below 0: what there is.

    Passes a model through, so that a trainer can come after it.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestFreeMemory",
            category="test",
            is_output_node=True,
            inputs=[io.Model.Input("model"), io.Float.Input("free", min=-1, max=1e15)],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, free) -> io.NodeOutput:
        real = pack_module("nodes.comfy").free_memory
        pack_module("nodes.training_checks").free_memory = real if free < 0 else lambda device: free
        return io.NodeOutput(model)
