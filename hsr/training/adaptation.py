# SPDX-License-Identifier: Apache-2.0
"""Augmentation of a run: the pipe, and the control of its p by how far the discriminator overfits.

Source: Karras et al., "Training Generative Adversarial Networks with Limited Data" (2020), section 3.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..augment import AugmentPipe, pipe_strengths
from ..config import Config
from ..losses import Stats
from ..ranks import Ranks

# The generator begins to learn distortions where p is higher for long.
MAX_SAFE_P = 0.8
# Part of the images between p = 0 and p = 1 after which p has been high for long: as many as it takes from there to 1.
LONG_SHARE = 1 - MAX_SAFE_P


def build_pipe(config: Config, device: torch.device) -> AugmentPipe | None:
    """Returns the pipe of a run, with its fixed p or else 0, where adaptation starts; None without augmentation."""
    if config.augmentation == "none":
        return None
    pipe = AugmentPipe(**pipe_strengths(config.augmentation_pipe)).to(device)
    pipe.p.zero_()
    if config.augmentation == "fixed" and config.augmentation_p is not None:
        pipe.p.fill_(config.augmentation_p)
    return pipe


class Adaptation(nn.Module):
    """Moves the p of a pipe so that the discriminator's real logits keep a mean sign.

    The sign is 0 on average where real images that D has seen look like new ones to it, and 1 where it knows all of
    them. All of it stays on the device: no step waits for a value. The state dict holds p and what was collected since
    its last adjustment.

    Args:
        pipe: The pipe, whose p starts at 0 in a new run.
        batch: Images in a step, of all processes.
        target: Mean sign to keep.
        interval: Steps from one adjustment to the next.
        kimg: Thousands of images in which p goes from 0 to 1.
        sum_over_processes: Sums a tensor over all processes in place, so that all of them adjust p alike; None: there
            is one process.

    Attributes:
        collected: Since the last adjustment: the sum of the signs of finite logits, their number, and the number of
            those that weren't finite, [3] float32.
        not_finite: The number of logits so far that weren't finite, up to the last adjustment; int64 scalar.
    """

    collected: Tensor
    not_finite: Tensor

    def __init__(
        self,
        pipe: AugmentPipe,
        *,
        batch: int,
        target: float = 0.6,
        interval: int = 4,
        kimg: float = 500.0,
        sum_over_processes: Callable[[Tensor], object] | None = None,
    ) -> None:
        super().__init__()
        self.pipe = pipe
        self.target, self.interval = target, interval
        self.change = interval * batch / (1000 * kimg)
        self.sum_over_processes = sum_over_processes
        self.register_buffer("collected", torch.zeros([3], device=pipe.p.device))
        self.register_buffer("not_finite", torch.zeros([], dtype=torch.int64, device=pipe.p.device))

    def collect(self, logits: Tensor) -> None:
        """Takes in the logits of augmented real images, of any shape."""
        logits = logits.detach()
        is_finite = logits.isfinite()
        # The sign of NaN is 0, which would count as undecided.
        counts = [logits.sign().masked_fill(~is_finite, 0), is_finite, ~is_finite]
        self.collected += torch.stack([count.sum(dtype=torch.float32) for count in counts])

    def pool(self, is_main: bool) -> None:
        """Brings together in the main process what all have collected, which is then the state of the job."""
        if self.sum_over_processes is not None:
            self.sum_over_processes(self.collected)
        if not is_main:
            self.collected.zero_()

    def adjust(self, steps: int) -> Stats:
        """Moves p after every `interval` steps, and starts to collect anew.

        Args:
            steps: Training steps done.

        Returns:
            The mean sign by its name at an adjustment, NaN if no logit was finite, which leaves p as it is.
        """
        if steps % self.interval:
            return {}
        if self.sum_over_processes is not None:
            self.sum_over_processes(self.collected)
        signs, finite, not_finite = self.collected.unbind()
        mean = signs / finite
        direction = torch.where(finite > 0, (mean - self.target).sign(), 0)
        self.pipe.p.add_(direction * self.change).clamp_(0, 1)
        self.not_finite += not_finite.long()
        self.collected.zero_()
        return {"Augment/sign_real": mean}


def build_adaptation(config: Config, pipe: AugmentPipe | None, ranks: Ranks) -> Adaptation | None:
    """Returns the control of a pipe's p, or None where p is fixed."""
    if pipe is None or config.augmentation != "ada":
        return None
    return Adaptation(
        pipe,
        batch=config.batch,
        target=config.augmentation_target,
        interval=config.ada_interval,
        kimg=config.ada_kimg,
        sum_over_processes=lambda counts: ranks.sum_([counts]),
    )


class HighProbabilityWarning:
    """Says once in a run that p has been high for long, when the generator may learn distortions.

    Args:
        config: Settings.
        state: JSON values of the run, which keep since when p has been high, and whether it has been said.
    """

    def __init__(self, config: Config, state: dict) -> None:
        self.config, self.state = config, state

    def sentence(self, p: float, images_seen: int) -> str:
        """Returns the sentence that is due at a tick, empty if there is none."""
        if p <= MAX_SAFE_P:
            self.state.pop("images_at_high_p", None)
            return ""
        since = self.state.setdefault("images_at_high_p", images_seen)
        long = LONG_SHARE * self.config.ada_kimg
        if self.state.get("warned_of_high_p") or images_seen - since < 1000 * long:
            return ""
        self.state["warned_of_high_p"] = True
        return (
            f"The augmentation's p has stayed above {MAX_SAFE_P:g} for {long:g} kimg: the discriminator overfits all "
            "the same, and generated images may come to show the transforms; more images help, or a start from weights."
        )
