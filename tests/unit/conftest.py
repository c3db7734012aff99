"""What the tests of log-probabilities, sampling and training share: tiny random models, and groups over them.

The models are float64, but their RMSNorm and rotary angles are computed in float32, so that one rounding step of float32 (6e-8)
may differ between two ways of batching the same sequence: hence the tolerance 1e-6 in most comparisons. In one process, on one
thread, they mostly agree to 1e-14.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from selfcontrast import plugins

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import LlamaForCausalLM

    from selfcontrast.training.groups import TokenGroup
    from selfcontrast.training.preference import Objective

TOLERANCE = 1e-6
REQUIRED: dict[str, dict[str, Any]] = {
    "infonca": {"temperature": 0.5},
    "ipo": {"normalise": True},
    "ld_dpo": {"alpha": 0.5},
}
"""Parameters of the objectives that have some without a default."""


def build_llama(
    vocabulary: int = 19, *, seed: int = 0, spread: float = 0.3, width: int = 16, layers: int = 2, **config: Any
) -> LlamaForCausalLM:
    """Return a random Llama in float64.

    Four query heads share two key-value heads; weights are large enough for attention and positions to matter. Dropout must
    have no effect anywhere: training runs without it.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": width + 16,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": spread,
        "attention_dropout": 0.2,
        "tie_word_embeddings": False,
    }
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **config})).double().eval()


def build_groups(
    texts: Sequence[tuple[list[int], list[list[int]]]], *, reference: LlamaForCausalLM | None = None
) -> list[TokenGroup]:
    """Return prompts with their responses (chosen first) as groups with everything that an objective may need.

    Scores fall in steps of 0.1 from 0.4. The answer from elsewhere is the chosen one of the group that follows; its reference is
    8 nats too low, so that the drift is positive: objectives read a negative one as 0.

    Args:
        reference: gives the reference log-probabilities; by default a random Llama that is not the policy.
    """
    import torch

    from selfcontrast.logprobs import token_logps
    from selfcontrast.training.groups import Elsewhere, TokenGroup

    reference = reference or build_llama(seed=1)
    groups = []
    for i, (prompt, responses) in enumerate(texts):
        other = texts[(i + 1) % len(texts)][1][0]
        with torch.no_grad():
            *found, drifting = token_logps(reference, [prompt], [[*responses, other]], sharing="chosen").split()
        groups.append(
            TokenGroup(
                prompt,
                responses,
                [float(values.sum()) for values in found],
                [values.tolist() for values in found],
                score=[0.4 - 0.1 * j for j in range(len(responses) - 1)],
                elsewhere=Elsewhere(other, float(drifting.sum()) - 8),
            )
        )
    return groups


RAGGED = (
    ([3, 4, 5], [[6, 7, 2], [8, 2]]),
    ([9], [[10, 2], [11, 12, 13, 2], [2], [14, 14, 2]]),
    ([1, 1, 1, 1, 1], [[15, 2], [16, 2], [17, 18, 2]]),
)
"""Three groups of 1, 3 and 2 negatives."""


@functools.cache
def _ragged_groups() -> tuple[TokenGroup, ...]:
    return tuple(build_groups(RAGGED))


def build_ragged_groups() -> list[TokenGroup]:
    """Return RAGGED as groups, in a list of the caller's own."""
    return list(_ragged_groups())


def collect_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the gradients, by name, and drop them."""
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def collect_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the weights, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def largest_difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the largest difference of two sets of tensors, as a share of the largest value expected."""
    assert found.keys() == expected.keys()
    scale = max(float(v.abs().max()) for v in expected.values())
    assert scale > 0
    return max(float((found[name] - v).abs().max()) for name, v in expected.items()) / scale


@pytest.fixture(scope="session")
def llama() -> Callable[..., LlamaForCausalLM]:
    return build_llama


@pytest.fixture(scope="session")
def token_groups() -> Callable[..., list[TokenGroup]]:
    return build_groups


@pytest.fixture(scope="session")
def ragged_groups() -> Callable[[], list[TokenGroup]]:
    return build_ragged_groups


@pytest.fixture(scope="session")
def gradients() -> Callable[[nn.Module], dict[str, Tensor]]:
    return collect_gradients


@pytest.fixture(scope="session")
def weights() -> Callable[[nn.Module], dict[str, Tensor]]:
    return collect_weights


@pytest.fixture(scope="session")
def difference() -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], float]:
    return largest_difference


def build_objective(kind: str, *, sft_weight: float = 0.0, **params: Any) -> Objective:
    """Return an objective with its default parameters, and those of REQUIRED."""
    from selfcontrast.training.preference import Objective

    module = plugins.load("objectives", kind)
    return Objective(module, module.Params(**{**REQUIRED.get(kind, {}), **params}), sft_weight)


@pytest.fixture(scope="session")
def objective_of() -> Callable[..., Objective]:
    return build_objective


@pytest.fixture(params=plugins.names("objectives"))
def objective(request: pytest.FixtureRequest) -> Objective:
    """Every objective there is; skips one with required parameters that REQUIRED does not know."""
    fields = plugins.load("objectives", request.param).Params.model_fields
    missing = {name for name, field in fields.items() if field.is_required()} - REQUIRED.get(request.param, {}).keys()
    if missing:
        pytest.skip(f"conftest.REQUIRED has no {', '.join(sorted(missing))} for {request.param}")
    return build_objective(request.param)


@pytest.fixture(scope="session")
def builders() -> SimpleNamespace:
    """Return what another process takes from this module by importing it."""
    return SimpleNamespace(
        build_llama=build_llama,
        build_groups=build_groups,
        build_objective=build_objective,
        collect_weights=collect_weights,
    )


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Run the module on one thread: models this small are slower on several."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _reset_accelerate() -> None:
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


@pytest.fixture(scope="module", autouse=True)
def _accelerate_of_the_module() -> Iterator[None]:
    """Let every module choose its precision: accelerate keeps that of the first Accelerator of a process."""
    yield
    _reset_accelerate()


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Let the test choose its precision; an engine of a wider scope is of no use behind it."""
    _reset_accelerate()
    yield
    _reset_accelerate()
