"""Face parsers of SegFormer's layout that are small enough for tests."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from devtools.run_comfy import DeclareOperators
from realism_core.conditioning.masks import CLASSES
from realism_core.conditioning.vocabulary import CLASS_NAMES

# transformers imports torchvision, which may lack its compiled part here
sys.meta_path.insert(0, DeclareOperators())
SIZE = 64
# of the parser whose weights are set by hand
LARGE, SHARP = 300.0, 12.0
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
_CONFIG = {
    "architectures": ["SegformerForSemanticSegmentation"], "model_type": "segformer", "num_channels": 3,
    "num_encoder_blocks": 4, "depths": [1, 1, 1, 1], "sr_ratios": [8, 4, 2, 1],
    "hidden_sizes": [16, 16, 16, 16], "patch_sizes": [7, 3, 3, 3], "strides": [4, 2, 2, 2],
    "num_attention_heads": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2], "hidden_act": "gelu",
    "decoder_hidden_size": 32, "layer_norm_eps": 1e-6, "reshape_last_stage": True, "image_size": 224,
}  # fmt: skip
_PREPARED = {
    "do_normalize": True, "do_reduce_labels": False, "do_rescale": True, "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 2,
    "image_processor_type": "SegformerFeatureExtractor", "rescale_factor": 1 / 255,
    "size": {"height": SIZE, "width": SIZE},
}  # fmt: skip


def write_parser(folder: Path, names: Sequence[str] = CLASS_NAMES, seed: int = 0) -> Path:
    """Write a parser with random weights into a folder; returns its model.safetensors."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(seed)
    config = SegformerConfig(**{k: v for k, v in _CONFIG.items() if k != "model_type"}, num_labels=len(names))
    return write_network(folder, SegformerForSemanticSegmentation(config), names)


def write_network(
    folder: Path, network: torch.nn.Module, names: Sequence[str] = CLASS_NAMES, size: int = SIZE
) -> Path:
    """Write a network as a model folder of the hub holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(folder)
    labels = {str(number): name for number, name in enumerate(names)}
    config = {**_CONFIG, "id2label": labels, "label2id": {name: int(key) for key, name in labels.items()}}
    (folder / FILES[0]).write_text(json.dumps(config))
    (folder / FILES[1]).write_text(json.dumps({**_PREPARED, "size": {"height": size, "width": size}}))
    return folder / FILES[2]


def write_grey_parser(folder: Path, names: Sequence[str] = CLASS_NAMES, size: int = 256) -> Path:
    """Write a parser whose weights are set by hand: 4 x 4 pixels of grey c/18 are class c for certain.

    Between two greys the two classes share. The network is a SegFormer all the same: the grey goes through
    the first stage, beside constants so large that normalisation hardly changes it, and the head makes a
    triangle around each class's grey out of ramps.
    """
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(**{k: v for k, v in _CONFIG.items() if k != "model_type"}, num_labels=CLASSES)
    network = SegformerForSemanticSegmentation(config).eval()
    mean, std = _PREPARED["image_mean"][0], _PREPARED["image_std"][0]
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
        for part in network.modules():
            if isinstance(part, (torch.nn.LayerNorm, torch.nn.BatchNorm2d)):
                part.weight.fill_(1)
        embedding = next(part for part in network.modules() if isinstance(part, torch.nn.Conv2d))
        embedding.weight[0, 0, 3:, 3:] = 1 / 16
        embedding.weight[1, 0, 3:, 3:] = -1 / 16
        embedding.bias[2], embedding.bias[3] = LARGE, -LARGE
        head = network.decode_head
        projection = next(part for name, part in head.named_modules() if name.endswith("0.proj"))
        # what both normalisations divide by: the root of the mean of 16 squares
        projection.weight[0, 0] = LARGE * (2 / 16) ** 0.5
        projection.bias[1] = 1
        mine = head.linear_fuse.in_channels * 3 // 4  # the first stage comes last
        for knot in range(CLASSES + 2):
            head.linear_fuse.weight[knot, mine] = 1
            head.linear_fuse.weight[knot, mine + 1] = -((knot - 1) / (CLASSES - 1) - mean) / std
        for label in range(CLASSES):
            for knot, slope in enumerate((1, -2, 1)):
                head.classifier.weight[label, label + knot] = slope * SHARP * std * (CLASSES - 1)
    return write_network(folder, network, names, size)


def pictures(labels: Tensor) -> Tensor:
    """Return pictures [B,H,W,3] whose greys the parser reads as labels [B,H,W]."""
    return (labels.float() / (CLASSES - 1))[..., None].expand(*labels.shape, 3).contiguous()


def blocks(labels: Tensor, side: int = 4) -> Tensor:
    """Return labels [...,H,W] with each as a block of side x side pixels."""
    return labels.repeat_interleave(side, -1).repeat_interleave(side, -2)
