"""Start ComfyUI's main.py unchanged, also where torchvision has lost its compiled part.

usage: python run_comfy.py COMFYUI_DIR [ComfyUI arguments...]

Beside a CPU build of torch, PyPI's torchvision has no loadable extension and its Python code stops on
'operator torchvision::nms does not exist'. Declaring the schemas of the two operators is enough for all that
ComfyUI's core imports; calling them would still fail. Nothing is declared where the extension is there.

With REALISM_WATCH_PARENT=1 the process ends when its standard input closes, that is, when the process that
started it ends in whatever way: no server is left behind.
"""

import importlib.abc
import importlib.util
import os
import runpy
import sys
import threading
from pathlib import Path

kept_alive = []  # a torch.library.Library takes its declarations back when it is collected


class DeclareOperators(importlib.abc.MetaPathFinder):
    """Declares torchvision's operators just before its first import, importing torch no earlier."""

    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec and spec.origin and not has_extension(Path(spec.origin).parent):
            import torch

            library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            kept_alive.append(library)
        return spec


def has_extension(folder):
    """Whether torchvision's folder holds its compiled part."""
    return any(file.suffix in (".so", ".pyd", ".dylib") for file in folder.glob("_C*"))


def end_with_parent():
    """Leave as soon as standard input is closed."""
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)


def main():
    root = str(Path(sys.argv[1]).resolve())
    if os.environ.pop("REALISM_WATCH_PARENT", "") == "1":
        threading.Thread(target=end_with_parent, daemon=True).start()
    sys.meta_path.insert(0, DeclareOperators())
    # Python put this file's folder first; its server.py would stand in for ComfyUI's.
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [root] + [p for p in sys.path if p and str(Path(p).resolve()) != here]
    sys.argv = [os.path.join(root, "main.py"), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
