# SPDX-License-Identifier: Apache-2.0
"""The processes that train together, as `torchrun` starts them: one for each GPU, or several on CPUs.

Everything rests on torch.distributed, with NCCL on GPUs and Gloo on CPUs. A process by itself is a job of one, in
which nothing is initialised and every operation is the identity.
"""

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .device import resolve_device
from .errors import UserError, reason
from .job import local_process_index, process_count
from .parts import BatchPart

# Time for one process to prepare what the others wait for, such as a data set.
CONTROL_TIMEOUT = timedelta(days=1)
# Time for all processes to come together.
MEETING_SECONDS = 600.0

_Value = TypeVar("_Value")


class Ranks:
    """The processes of a job.

    Every method is called by all of them at the same point.

    Attributes:
        device: Device of this process.
        index: Rank of this process.
        count: Number of processes.
        local_index: Rank among the processes of this machine.

    Args:
        control: Process group of CPU tensors and Python objects.
    """

    def __init__(
        self,
        device: torch.device,
        index: int = 0,
        count: int = 1,
        local_index: int = 0,
        control: dist.ProcessGroup | None = None,
    ):
        self.device, self.index, self.count, self.local_index = device, index, count, local_index
        self._control = control
        self._stop_flag = torch.zeros([], dtype=torch.int32)
        self._stop_work: dist.Work | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.index == 0

    @property
    def part(self) -> BatchPart:
        """This process's part of a batch."""
        return BatchPart(self.index, self.count)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors on the device by their sums over the processes, in one operation for each dtype."""
        if self.count == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            members = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in members])
            with _collective():
                dist.all_reduce(flat)
            sums = flat.split([tensor.numel() for tensor in members])
            torch._foreach_copy_(members, [s.view(t.shape) for s, t in zip(sums, members, strict=True)])

    def mean(self, value: Tensor) -> Tensor:
        """Returns the mean over the processes of a tensor on the device, as a constant."""
        if self.count == 1:
            return value.detach()
        total = value.detach().clone()
        with _collective():
            dist.all_reduce(total)
        return total / self.count

    def copy_from_main(self, tensors: Sequence[Tensor]) -> None:
        """Fills tensors on the device with those of the main process."""
        if self.count > 1:
            with _collective(), torch.no_grad():
                for tensor in tensors:
                    dist.broadcast(tensor, src=0)

    def share(self, items: Sequence[_Value]) -> Sequence[_Value]:
        """Returns this process's items of a list of work, whose results `gather` brings together."""
        return items[self.index :: self.count]

    def gather(self, results: list[_Value]) -> list[_Value]:
        """Returns the results of all processes' shares, in the order of the work."""
        if self.count == 1:
            return results
        collected: list[Any] = [None] * self.count
        with _collective():
            dist.all_gather_object(collected, results, group=self._control)
        merged: list[Any] = [None] * sum(map(len, collected))
        for index, values in enumerate(collected):
            merged[index :: self.count] = values
        return merged

    def from_main(self, value: _Value) -> _Value:
        """Returns the value that the main process has."""
        if self.count == 1:
            return value
        values = [value]
        with _collective():
            dist.broadcast_object_list(values, src=0, group=self._control)
        return values[0]

    @contextmanager
    def one_per_machine_first(self) -> Iterator[None]:
        """Runs its body in one process of each machine and then in the others, which find what that one has cached."""
        if self.local_index > 0:
            self._barrier()
        try:
            yield
        finally:
            # The others run into the same error by themselves, instead of waiting for ever.
            if self.local_index == 0:
                self._barrier()

    def _barrier(self) -> None:
        if self.count > 1:
            with _collective():
                dist.barrier(group=self._control)

    def any_stops(self, is_requested: bool) -> bool:
        """Returns whether some process has requested a stop, the same answer in all of them.

        With several processes it is that of the previous call, so that no step waits for the others to arrive.
        """
        if self.count == 1:
            return is_requested
        answer = self._previous_answer()
        self._stop_flag.fill_(int(is_requested))
        with _collective():
            self._stop_work = dist.all_reduce(self._stop_flag, dist.ReduceOp.MAX, group=self._control, async_op=True)
        return answer

    def _previous_answer(self) -> bool:
        if self._stop_work is None:
            return False
        with _collective():
            self._stop_work.wait()
        self._stop_work = None
        return bool(self._stop_flag.item())

    def leave(self) -> None:
        """Ends this process's part in the job."""
        if self.count > 1:
            self._previous_answer()
            dist.destroy_process_group()


@contextmanager
def joined(device_name: str) -> Iterator[Ranks]:
    """Joins the job that this process belongs to, and leaves it after the body.

    Args:
        device_name: auto, cpu, cuda or cuda:<n>; of several processes each takes the GPU of its local rank.

    Raises:
        UserError: The device doesn't exist, or the processes don't find each other.
    """
    device = resolve_device(device_name)
    count = process_count()
    if count == 1:
        yield Ranks(device)
        return
    local_index = local_process_index()
    if device.type == "cuda":
        if device.index is not None:
            raise UserError(f"--device {device_name} is one GPU, but {count} processes need one each: say cuda.")
        device = resolve_device(f"cuda:{local_index}")
        torch.cuda.set_device(device)
    try:
        store, index, _ = next(dist.rendezvous("env://"))
        store = dist.PrefixStore(_name_of_attempt(store, index, count), store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=index, world_size=count)
        control = dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT)
    except Exception as error:
        raise UserError(f"The {count} processes of this job don't find each other ({reason(error)}).") from error
    ranks = Ranks(device, index, count, local_index, control)  # type: ignore[arg-type]
    yield ranks
    # After an error the others may be gone, and taking leave of them would wait for ever.
    ranks.leave()


def _name_of_attempt(store: dist.Store, index: int, count: int) -> str:
    """Returns a name that the processes of a job agree on, and that none of them had before.

    An agent of `torchrun` keeps its store when it starts its processes again, and with it the addresses of those that
    are gone; nor does the number of restarts tell them apart, as each machine counts its own.
    """
    name = secrets.token_hex(8)
    if index > 0:
        store.set(f"hello/{index}", name)
        agreed = store.get(f"welcome/{name}").decode()
        store.set(f"ready/{agreed}/{index}", "")
        return agreed
    deadline = time.monotonic() + MEETING_SECONDS
    missing = list(range(1, count))
    while missing:
        for other in missing:
            if store.check([f"hello/{other}"]):
                # What an earlier process has left behind is answered, too, and nobody hears it.
                store.set(f"welcome/{store.get(f'hello/{other}').decode()}", name)
        missing = [other for other in missing if not store.check([f"ready/{name}/{other}"])]
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {missing[0]} has not come within {MEETING_SECONDS:.0f} s")
        time.sleep(0.01)
    return name


@contextmanager
def _collective() -> Iterator[None]:
    """Turns the failure of an operation of all processes into a `UserError`."""
    try:
        yield
    except RuntimeError as error:
        # Gloo adds advice to the first sentence.
        cause = reason(error).split(". ")[0].rstrip(".")
        raise UserError(f"Another process of this job has ended, so this one cannot go on ({cause}).") from error
