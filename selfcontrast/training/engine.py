"""Where a training runs: device, precision and processes, by way of accelerate.

A script started by `accelerate launch` gets several processes and the strategy of its flags (DDP, FSDP2, DeepSpeed); one
started by `python` gets one process on the GPU or CPU there is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from selfcontrast.finite import NotFiniteError
from selfcontrast.logprobs import Sharing, TokenLogps, Tokens, token_logps

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Precision = Literal["weights", "bf16"]


class _TokenLogps(nn.Module):
    """A language model whose forward pass is ``token_logps``: what parallel wrappers can hook into."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]], sharing: Sharing) -> Tensor:
        return token_logps(self.model, prompts, responses, sharing=sharing).values


class Engine:
    """A model with its optimiser on the processes and devices of this run.

    Attributes:
        model: the language model itself, for reading; its weights are the ones that are trained.
        optimiser: AdamW over the weights that require a gradient; no weight decay.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        precision: Precision = "weights",
        clip: float = 1.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        """Take the model over. Dropout is off: at step 0 the policy must be the same function as the reference.

        Args:
            precision: compute in the type of the weights, or in bfloat16 under autocast with the weights as they are.
            clip: largest norm of the gradient.
            gradient_checkpointing: keep only the inputs of the layers, and run each once more in the backward pass.
        """
        model.eval()
        if gradient_checkpointing:
            _checkpoint_layers(model)
        self.model = model
        self.clip = clip
        self.accelerator = self._make_accelerator(precision, cpu=model.device.type == "cpu")
        trained = [p for p in model.parameters() if p.requires_grad]
        wrapped, optimiser = self.accelerator.prepare(
            _TokenLogps(model), torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0, fused=True)
        )
        self._wrapped = wrapped
        self._tokens = 0
        self.optimiser = optimiser

    def _make_accelerator(self, precision: Precision, *, cpu: bool) -> Accelerator:
        return Accelerator(mixed_precision="bf16" if precision == "bf16" else "no", cpu=cpu)

    @property
    def rank(self) -> int:
        """Return the number of this process."""
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        """Return the number of processes."""
        return int(self.accelerator.num_processes)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Return the weights that are trained."""
        return [p for group in self.optimiser.param_groups for p in group["params"]]

    def token_logps(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]], *, sharing: Sharing
    ) -> TokenLogps:
        """Return log-probabilities as ``logprobs.token_logps`` does, by way of the parallel wrapper."""
        if torch.is_grad_enabled():
            self._tokens += sum(map(len, prompts)) + sum(len(r) for rs in responses for r in rs)
        return TokenLogps(self._wrapped(prompts, responses, sharing), [len(r) for rs in responses for r in rs])

    def take_tokens(self) -> int:
        """Return the tokens, each prompt counted once, that this process ran with gradients since the last call."""
        taken, self._tokens = self._tokens, 0
        return taken

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``; over processes, gradients are summed."""
        self.accelerator.backward(loss * self.world)  # the wrappers average

    @contextlib.contextmanager
    def adding_up(self, now: bool) -> Iterator[None]:
        """Add gradients up over processes now, or keep them in this one: all but the last backward pass of a batch do."""
        with contextlib.nullcontext() if now else self.accelerator.no_sync(self._wrapped):
            yield

    def step(self, lr: float) -> float:
        """Clip, take one step with this learning rate, clear the gradients; return the gradient's norm before clipping.

        Raises:
            NotFiniteError: the gradient is not finite; the weights are as they were.
        """
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.clip)
        value = float(norm) if norm is not None else 0.0
        if not torch.isfinite(torch.tensor(value)):
            raise NotFiniteError("the norm of the gradient", value)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.step()
        self.clear()
        return value

    def clear(self) -> None:
        """Drop the gradients."""
        self.optimiser.zero_grad(set_to_none=True)

    def total(self, values: Iterable[float]) -> list[float]:
        """Return numbers summed over processes."""
        mine = torch.tensor(list(values), dtype=torch.float64, device=self.model.device)
        if self.world > 1:
            mine = self.accelerator.reduce(mine, "sum")
        return [float(x) for x in mine]

    def largest(self, value: int) -> int:
        """Return the largest of one number over processes."""
        if self.world == 1:
            return value
        mine = torch.tensor([value], device=self.model.device)
        return int(self.accelerator.gather(mine).max())

    def save_weights(self) -> dict[str, Tensor] | None:
        """Return the whole weights of the language model on the first process, None on the others."""
        state = self.accelerator.get_state_dict(self._wrapped)
        return {k.removeprefix("model."): v for k, v in state.items()} if self.rank == 0 else None

    def wait(self) -> None:
        """Return when all processes are here."""
        self.accelerator.wait_for_everyone()

    @property
    def is_whole(self) -> bool:
        """Return whether every process holds all weights, which FSDP and DeepSpeed divide."""
        return self._kind in ("NO", "MULTI_CPU", "MULTI_GPU")

    @property
    def has_tensors(self) -> bool:
        """Return whether weights and the optimiser's state are there as tensors, which DeepSpeed keeps to itself."""
        return self._kind != "DEEPSPEED"

    @property
    def shard(self) -> tuple[int, int]:
        """Return which part of the weights this process holds, counted from 0, and of how many."""
        return (0, 1) if self.is_whole else (self.rank, self.world)

    @property
    def _kind(self) -> str:
        return str(self.accelerator.distributed_type.value)


def _checkpoint_layers(model: PreTrainedModel) -> None:
    """Checkpoint the layers, which transformers does in training mode alone, but run them as in evaluation mode.

    So dropout and whatever else a layer does in training stays off.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True
            module._gradient_checkpointing_func = partial(_checkpoint_in_evaluation_mode, module)


def _checkpoint_in_evaluation_mode(layer: nn.Module, function: Callable[..., Any], *args: Any) -> Any:
    def forward(*inputs: Any) -> Any:
        layer.training = False
        try:
            return function(*inputs)
        finally:
            layer.training = True

    return checkpoint(forward, *args, use_reentrant=False)
