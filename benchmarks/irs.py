"""Time and memory of `realism_core.irs.score` against the research recipe, on the same pictures, in one run.

The recipe (recipe.py) is OpenCV + scikit-image + numpy, one picture at a time as the research code works;
ours takes the batch. Both get the same thread count and both are warm. Repeats are interleaved (ours,
recipe, ours, ...), with the median reported, so that a busy machine hurts both alike.

Pictures: `photo` is a mosaic of 256 px crops from scikit-image's photographs (astronaut, chelsea, coffee,
rocket) at native resolution, so that all sizes have the same texture; `noise` is uniform noise, the worst
case for edges.
Input: `uint8` is bytes for both. `float` is ComfyUI's IMAGE, float32 0..1: ours takes it as it is, the recipe
gets the conversion that a ComfyUI node does, np.clip(255. * image, 0, 255).astype(np.uint8).
Definition `paper` works at 512 x 512: at 512 both get the pictures as they are, at other sizes both resize
and crop, the recipe with cv2.resize (area to shrink, bicubic to grow), hence the scores' difference.
Memory (Linux) is the growth of a fresh process's peak, from after the input was made to after three calls.

    python benchmarks/irs.py [--threads 2] [--sizes 256,512,1024,2048] [--batches 1,8] [--quick] [--profile]

Figures of one run: docs/speed.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CELL = 256
MEMORY_BATCHES = (1, 4, 8)


def main() -> None:
    """Print the tables."""
    options = _parse()
    _set_threads(options.threads)
    if options.memory:
        print(_memory_growth(*options.memory.split(",")))
        return
    print(_machine(options.threads))
    if options.profile:
        _print_profile(options.sizes, options.batches)
        return
    _print_times(options)
    if not options.quick:
        _print_memory(options.threads)


def mosaic(size: int, batch: int, kind: str = "photo"):
    """Return uint8 pictures [B,size,size,3]: a mosaic of photographs' crops, or noise."""
    import numpy as np

    random = np.random.default_rng(size * 100 + batch)
    if kind == "noise":
        return random.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    from skimage import data

    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    pictures = np.empty((batch, size, size, 3), dtype=np.uint8)
    for picture in pictures:
        for top in range(0, size, CELL):
            for left in range(0, size, CELL):
                photograph = photographs[random.integers(len(photographs))]
                y = random.integers(photograph.shape[0] - CELL + 1)
                x = random.integers(photograph.shape[1] - CELL + 1)
                cell = picture[top : top + CELL, left : left + CELL]
                cell[:] = photograph[y : y + cell.shape[0], x : x + cell.shape[1], :3]
    return pictures


def _print_times(options: argparse.Namespace) -> None:
    import numpy as np
    import torch
    from recipe import recipe_irs

    from realism_core.irs import score

    head = f"{'definition':<10} {'input':<6} {'pictures':<8} {'px':>5} {'B':>2}"
    print(
        f"{head} {'ours ms':>9} {'recipe ms':>9} {'ratio':>6} {'quartiles':>12} {'ns/px':>6} {'max diff':>9}"
    )
    for definition in options.definitions:
        profile = _profile_for(definition)
        means = tuple(profile.means.tolist())
        for kind, dtype in (("photo", "uint8"), ("photo", "float"), ("noise", "uint8")):
            for size in options.sizes:
                for batch in options.batches:
                    pictures = mosaic(size, batch, kind)
                    given = torch.from_numpy(pictures)
                    given = given if dtype == "uint8" else given.float() / 255

                    def ours(given=given, definition=definition, profile=profile) -> list[float]:
                        return score(given, definition, profile).irs.tolist()

                    def recipe(given=given, definition=definition, means=means) -> list[float]:
                        return [recipe_irs(_as_bytes(image), definition, means) for image in given]

                    difference = np.abs(np.array(ours()) / np.array(recipe()) - 1).max()
                    times = _interleaved(ours, recipe, options.repeats, options.seconds)
                    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
                    ratios = sorted(b / a for a, b in times)
                    quarter = len(ratios) // 4
                    spread = f"{ratios[quarter]:.2f}..{ratios[-1 - quarter]:.2f}"
                    row = f"{definition:<10} {dtype:<6} {kind:<8} {size:>5} {batch:>2}"
                    row += f" {mine / batch * 1e3:>9.2f} {theirs / batch * 1e3:>9.2f} {theirs / mine:>6.2f}"
                    print(
                        f"{row} {spread:>12} {mine / batch / size**2 * 1e9:>6.1f} {difference:>9.1e}",
                        flush=True,
                    )
    print(
        "ms and ns/px are per picture; constant ns/px over the sizes = cost linear in the pixels. "
        "quartiles: of the ratio over the repeats."
    )


def _interleaved(first, second, repeats: int, seconds: float) -> list[tuple[float, float]]:
    """Return pairs of times, taken in turn: at least 5, at most `repeats`, about `seconds` in all."""
    times, begin = [], time.perf_counter()
    while len(times) < 5 or (len(times) < repeats and time.perf_counter() - begin < seconds):
        start = time.perf_counter()
        first()
        middle = time.perf_counter()
        second()
        times.append((middle - start, time.perf_counter() - middle))
    return times


def _as_bytes(image):
    import numpy as np
    import torch

    if image.dtype == torch.uint8:
        return image.numpy()
    return np.clip(255.0 * image.cpu().numpy(), 0, 255).astype(np.uint8)


def _print_memory(threads: int) -> None:
    print(
        f"\n{'definition':<10} {'px':>5} {'who':<6} "
        + " ".join(f"{f'B={b} MiB':>9}" for b in MEMORY_BATCHES)
        + "   (growth of peak memory over the input)"
    )
    for definition in ("reference", "paper"):
        for who in ("ours", "recipe"):
            grown = []
            for batch in MEMORY_BATCHES:
                command = [sys.executable, __file__, "--threads", str(threads)]
                command += ["--memory", f"{who},{definition},1024,{batch}"]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                grown.append(float(done.stdout))
            print(
                f"{definition:<10} {1024:>5} {who:<6} " + " ".join(f"{value:>9.0f}" for value in grown),
                flush=True,
            )


def _memory_growth(who: str, definition: str, size: str, batch: str) -> float:
    """Return how much a fresh process's peak memory grows, in MiB, by scoring float pictures."""
    import numpy as np
    import torch
    from recipe import recipe_irs

    from realism_core.irs import score

    profile = _profile_for(definition)
    means = tuple(profile.means.tolist())
    small = torch.from_numpy(mosaic(64, 1))
    score(small, definition, profile)
    recipe_irs(small[0].numpy(), definition, means)
    given = torch.empty(int(batch), int(size), int(size), 3)
    for index, picture in enumerate(mosaic(int(size), int(batch))):
        np.divide(picture, np.float32(255), out=given[index].numpy())
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten: making the input was one
    before = _peak()
    for _ in range(3):
        if who == "ours":
            score(given, definition, profile)
        else:
            for image in given:
                recipe_irs(_as_bytes(image), definition, means)
    return _peak() - before


def _peak() -> float:
    """Return this process's peak memory in MiB, as Linux keeps it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def _print_profile(sizes: list[int], batches: list[int]) -> None:
    """Print where our own time goes, measure by measure."""
    import torch

    from realism_core import images
    from realism_core.irs import canny, glcm, measures, score, spectrum
    from realism_core.irs.blur import grey_variance, laplacian_variance
    from realism_core.irs.grey import opencv_grey, pillow_grey

    for size in sizes:
        for batch in batches:
            given = torch.from_numpy(mosaic(size, batch)).float() / 255
            planes = images.to_planes(given)
            bytes_hwc = planes.movedim(1, -1)
            grey, luma = opencv_grey(planes, swapped=True), pillow_grey(planes)
            counts = glcm.cooccurrence(luma)
            parts = {
                "to_planes (float in)": lambda given=given: images.to_planes(given),
                "to_planes (uint8 HWC view)": lambda given=bytes_hwc: images.to_planes(given),
                "opencv_grey": lambda planes=planes: opencv_grey(planes, swapped=True),
                "pillow_grey": lambda planes=planes: pillow_grey(planes),
                "canny_edges": lambda grey=grey: canny.canny_edges(grey),
                "cooccurrence": lambda luma=luma: glcm.cooccurrence(luma),
                "contrast + asm": lambda counts=counts: (glcm.glcm_contrast(counts), glcm.glcm_asm(counts)),
                "grey_variance": lambda grey=grey: grey_variance(grey),
                "laplacian_variance": lambda grey=grey: laplacian_variance(grey),
                "mean_log_spectrum": lambda planes=planes: spectrum.mean_log_spectrum(planes),
                "mean_magnitude_spectrum": lambda grey=grey: spectrum.mean_magnitude_spectrum(grey),
                "channels_equal": lambda planes=planes: measures.channels_equal(planes),
                "fit_paper_size": lambda planes=planes: measures.fit_paper_size(planes),
            }
            for definition in ("reference", "paper"):
                profile = _profile_for(definition)
                parts[f"score {definition}"] = lambda given=given, d=definition, p=profile: score(given, d, p)
            print(f"\n{size} px, batch {batch}: ms per picture, median and best of 15, float input")
            for name, call in parts.items():
                call()
                times = []
                for _ in range(15):
                    start = time.perf_counter()
                    call()
                    times.append(time.perf_counter() - start)
                middle, least = (value / batch * 1e3 for value in (statistics.median(times), min(times)))
                print(f"  {name:<28} {middle:>8.2f} {least:>8.2f}", flush=True)


def _profile_for(definition: str):
    """Return the shipped profile, or one fitted to the mosaics while there is none."""
    import torch

    from realism_core.irs import Profile

    try:
        return Profile.shipped(definition)
    except ValueError:
        return Profile.fit(torch.from_numpy(mosaic(256, 6)), definition)


def _set_threads(threads: int) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def _machine(threads: int) -> str:
    import cv2
    import numpy
    import skimage
    import torch

    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        processor = models[0] if models else processor
    return (
        f"{platform.system()} {processor}, {os.cpu_count()} cores, {threads} threads for both, "
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__}, "
        f"OpenCV {cv2.__version__}, scikit-image {skimage.__version__}"
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    numbers = {"type": lambda text: [int(part) for part in text.split(",")]}
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", default=[256, 512, 1024, 2048], **numbers)
    parser.add_argument("--batches", default=[1, 8], **numbers)
    parser.add_argument("--definitions", default=["reference", "paper"], type=lambda text: text.split(","))
    parser.add_argument("--repeats", type=int, default=25, help="most repeats of one row")
    parser.add_argument("--seconds", type=float, default=6.0, help="about the longest that one row takes")
    parser.add_argument("--quick", action="store_true", help="times only, no memory")
    parser.add_argument("--profile", action="store_true", help="where our own time goes, measure by measure")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
