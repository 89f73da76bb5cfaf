"""One training by several processes: each computes its share of every batch, and all take the same step."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .draws import Draw
from .seeds import generator_of

# exact in float64
_DIGEST_BYTES = 6


@dataclass(frozen=True)
class Share:
    """Which of `count` processes this one is, rank 0 to count - 1, and how tensors are summed over all.

    reduce: puts the sum over all processes in place of a tensor's values. All call it in the same order, with
    small float64 tensors on the CPU and with gradients on the training's device, and it has to give all of
    them the same bits. Raises ValueError for a rank that there is not.
    """

    rank: int
    count: int
    reduce: Callable[[Tensor], object]

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise ValueError(f"rank is {self.rank} of {self.count} processes: it is from 0 to count - 1.")


class PeerStopped(RuntimeError):
    """Another process of the training failed, or is gone."""


class _Told(NamedTuple):
    """What the processes said: one code each, 0 to go on, one digest each, and for each parameter how many
    have a gradient of it.
    """

    codes: list[float]
    digests: list[float]
    gradients: list[float]


class Company:
    """The processes of a training, told by each before every step how it fares, so that none waits for ever.

    Every step begins its exchange with one such meeting; another opens the training, another closes it. A
    process that ends early comes to the next one all the same, to say so. share: None for a process alone,
    for which all of this does nothing. kinds: what ends a training without being a failure; the others then
    raise the same. As a context, it tells the others of whatever leaves it.
    """

    def __init__(
        self, share: Share | None, parameters: Sequence[nn.Parameter], kinds: Sequence[type[BaseException]]
    ) -> None:
        self.rank, self.count = (share.rank, share.count) if share else (0, 1)
        self._reduce = share.reduce if share else None
        self._parameters, self._kinds = parameters, kinds
        self._together = self.count > 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def batch_size(self, own: int, images: int) -> int:
        """Return the batch size of all processes, from each one's; ValueError if there are fewer images."""
        if self.count > 1 and own * self.count > images:
            raise ValueError(
                f"batch_size is {own} in each of {self.count} processes, {own * self.count} in all, but "
                f"there are only {images} images: lower it or start fewer processes, and raise "
                "accumulation instead."
            )
        return own * self.count

    def part(self, draw: Draw, seed: int, number: int) -> Draw:
        """Return this process's images of a draw for all; number: of the pass, no other process's.

        The generator is one of its own, so that what a further loss draws moves nobody's noise.
        """
        if self.count == 1:
            return draw
        size = len(draw.indices) // self.count
        own = slice(self.rank * size, (self.rank + 1) * size)
        fields = {
            name: value[own] for name, value in draw._asdict().items() if isinstance(value, (Tensor, list))
        }
        return draw._replace(**fields, generator=generator_of(seed, "further loss", number))

    def numbered(self, number: int) -> int:
        """Return a number that no process has for another count, from one that all count alike."""
        return number * self.count + self.rank

    def open(self, binding: Callable[[], Mapping[str, Any]], step: int) -> None:
        """Compare settings, step and start with the other processes; raises ValueError where one differs."""
        if not self._together:
            return
        sha = hashlib.sha256(json.dumps([binding(), step], sort_keys=True, default=str).encode())
        for parameter in self._parameters:
            sha.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        digest = int.from_bytes(sha.digest()[:_DIGEST_BYTES], "little")
        others = self._meet(digest=digest).digests
        if different := [rank for rank, other in enumerate(others) if other != others[0]]:
            raise ValueError(
                f"process {different[0] + 1} of {self.count} has other settings, images, weights or another "
                "step to go on from than process 1: start all with the same command on the same files."
            )
        self._together = True

    def close(self) -> None:
        """End the training together."""
        if self._together:
            self._meet()

    def add_up(self, loss: Tensor) -> Tensor:
        """Sum gradients and loss over all processes; returns the sum of the losses.

        A parameter that got no gradient in any process is left without one. Raises what ended another.
        """
        if not self._together:
            return loss
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self._parameters
        ]
        # made before the meeting: memory may run out here
        flat = torch.cat([loss.reshape(1), *(gradient.flatten().to(loss) for gradient in gradients)])
        has = self._meet([float(parameter.grad is not None) for parameter in self._parameters]).gradients
        self._sum(flat)
        self._together = True
        sums = flat[1:].split([gradient.numel() for gradient in gradients])
        for parameter, gradient, some, values in zip(self._parameters, gradients, has, sums, strict=True):
            if some:
                parameter.grad = gradient.copy_(values.view_as(gradient))
        return flat[0]

    def leave(self, error: BaseException) -> None:
        """Tell the others that this process ends, unless they know."""
        if self._together:
            code = next((n for n, kind in enumerate(self._kinds, 1) if isinstance(error, kind)), 0)
            with contextlib.suppress(PeerStopped):
                self._exchange(code or len(self._kinds) + 1)

    def __enter__(self) -> Company:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.leave(error)

    def _meet(self, gradients: Sequence[float] = (), digest: int = 0) -> _Told:
        told = self._exchange(0, gradients, digest)
        worst = max(told.codes)
        if worst:
            if worst <= len(self._kinds):
                raise self._kinds[int(worst) - 1]
            raise PeerStopped(
                f"process {told.codes.index(worst) + 1} of {self.count} stopped, and with it the training: "
                "its own message says why."
            )
        return told

    def _exchange(self, code: int, gradients: Sequence[float] = (), digest: int = 0) -> _Told:
        told = torch.zeros(2 * self.count + len(self._parameters), dtype=torch.float64)
        told[self.rank], told[self.count + self.rank] = code, digest
        if gradients:
            told[2 * self.count :] = torch.tensor(gradients, dtype=torch.float64)
        self._sum(told)
        values = told.tolist()
        return _Told(values[: self.count], values[self.count : 2 * self.count], values[2 * self.count :])

    def _sum(self, tensor: Tensor) -> None:
        # a process that ends before the exchange is over cannot say so: it would be taken for its sum
        self._together = False
        try:
            self._reduce(tensor)
        except RuntimeError as error:
            raise PeerStopped(
                f"one of the {self.count} processes is gone, and with it the training ({error}). What was "
                "trained is kept: start all again with resume."
            ) from error
