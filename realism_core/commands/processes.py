"""The processes that `accelerate launch` started together, and a Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib import import_module

import torch
from torch import Tensor

from ..training.share import Share

# how launchers say how many processes there are
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
# how long a process waits for the others before it takes them for gone
_PATIENCE = timedelta(minutes=30)


def processes(device: str | None) -> tuple[Share | None, torch.device]:
    """Return this process's share, None if it is alone, and the device to compute on.

    Raises ValueError where accelerate is missing, started one process instead of several, or the processes
    do not find one another.
    """
    on_cpu = device == "cpu" or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    counts = [int(os.environ[name]) for name in _WORLD_SIZES if name in os.environ]
    if on_cpu and not counts and "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ:
        raise ValueError(
            "accelerate launch --cpu starts one process, not several, unless through MPI. To train in "
            "several on the processor: accelerate launch --multi_gpu --num_processes N -m realism_core "
            "train ... --device cpu"
        )
    if max(counts, default=1) < 2:
        return None, torch.device(device) if device else _own_device()
    if device not in (None, "cpu"):
        raise ValueError(
            f"--device is {device}, but accelerate gives each process its own: leave it out, or set it to "
            "cpu."
        )
    try:
        from accelerate import PartialState
    except ImportError:
        raise ValueError(
            "accelerate is needed for several processes and is not there: pip install realism-kit[train]"
        ) from None
    # its functions keep the group that there is when they are read: read later, by diffusers, they would keep
    # this one past `leave_together`, and a thread of it that outlives the interpreter ends in SIGABRT
    import_module("torch.distributed.nn")
    try:
        state = PartialState(cpu=on_cpu, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the processes do not find one another: {error}") from error
    share = Share(state.process_index, state.num_processes, _summing(state.device))
    return share, state.device


def leave_together() -> None:
    """Let go of the other processes at the end, where there are any."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def asked_to_stop() -> Iterator[Callable[[], None]]:
    """Give a function that raises KeyboardInterrupt once Ctrl-C, or an order to end, has come.

    The second one takes effect at once.
    """
    asked = []

    def note(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _own_device() -> torch.device:
    accelerator = vars(torch).get("accelerator")
    if accelerator is not None and accelerator.is_available():
        return accelerator.current_accelerator()
    return torch.device("cpu")


def _summing(device: torch.device) -> Callable[[Tensor], None]:
    from torch import distributed

    # what processes tell each other stays on the processor, so that no device is waited for
    beside = None if device.type == "cpu" else distributed.new_group(backend="gloo")

    def add_up(tensor: Tensor) -> None:
        distributed.all_reduce(tensor, group=beside if tensor.device.type == "cpu" else None)

    return add_up
