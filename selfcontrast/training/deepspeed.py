"""Training under DeepSpeed's ZeRO, which divides optimiser, gradients and (stage 3) weights and takes the steps itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from selfcontrast.finite import NotFiniteError
from selfcontrast.logprobs import Sharing, TokenLogps, Tokens
from selfcontrast.training.engine import Engine, Precision


class DeepSpeedEngine(Engine):
    """An engine whose backward passes and steps are DeepSpeed's.

    Precision ``bf16`` is autocast over float32 weights, as in the other engines: DeepSpeed's own would hold the weights in
    bfloat16, and the policy would not start as the reference.
    """

    _half = False

    def _make_accelerator(self, precision: Precision, *, cpu: bool) -> Accelerator:
        self._half = precision == "bf16"
        accelerator = Accelerator(mixed_precision="no")
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        # Batches are made of groups here, not of DeepSpeed's samples: it only has to know that nothing is accumulated for it.
        settings |= {"train_micro_batch_size_per_gpu": 1, "gradient_clipping": self.clip}
        return accelerator

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Return nothing: DeepSpeed holds the trained weights in parts of its own."""
        return []

    def token_logps(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]], *, sharing: Sharing
    ) -> TokenLogps:
        """Return log-probabilities as ``Engine.token_logps`` does."""
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self._half):
            return super().token_logps(prompts, responses, sharing=sharing)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``; over processes, gradients are summed."""
        self._wrapped.backward(loss * self.world)  # DeepSpeed averages

    @contextlib.contextmanager
    def adding_up(self, now: bool) -> Iterator[None]:
        """Tell DeepSpeed whether the next backward pass is the last of a batch."""
        self._wrapped.set_gradient_accumulation_boundary(now)
        yield

    def step(self, lr: float) -> float:
        """Take one step with this learning rate; return the gradient's norm before clipping.

        Raises:
            NotFiniteError: the gradient was not finite; the weights are lost, and the training ends.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self._wrapped.step()
        norm = float(self._wrapped.get_global_grad_norm())
        if not torch.isfinite(torch.tensor(norm)):
            raise NotFiniteError("the norm of the gradient", norm)
        return norm
