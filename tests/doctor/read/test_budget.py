"""Memory of recorded machines, and needs of the usual models, by hand."""

from grpo_cli.doctor.read.budget import (
    MODELS,
    RANK,
    TYPICAL,
    adapter_numbers,
    budget,
    rollouts_alone,
    typical_needs,
)
from grpo_cli.engine.memory.estimate import rollout_bytes, update_bytes
from tests.support.machines import RecordedMachine


def test_the_budget_is_the_device_s() -> None:
    for name, size in (
        ("m3max_macos15", 51539607552),
        ("linux_cuda", 84_000_000_000),
        ("linux_cpu", 28123456 * 1024),
    ):
        machine = RecordedMachine(name)
        assert budget(machine, machine.probe()) == size


def test_the_sizes_of_the_models_are_theirs() -> None:
    """nanochat: two tables of tokens, and 12 squares of the width in each layer."""
    sizes = {model.name: model for model in MODELS}
    for name, layers in (("nanochat-d20", 20), ("nanochat-d32", 32)):
        width = 64 * layers
        assert sizes[name].parameters == 2 * 65536 * width + layers * 12 * width**2
        assert (sizes[name].shape.layers, sizes[name].shape.hidden) == (layers, width)


def test_needs_by_hand() -> None:
    """Half precision: 2 bytes of weight, and 12 of averages and copy; float32: 4 and 8."""
    model = next(each for each in MODELS if each.name == "nanochat-d20")
    half = typical_needs(model.shape, 1000, width=2)
    assert (half.weights, half.optimizer, half.gradients, half.step) == (2000, 12_000, 4000, 6000)
    full = typical_needs(model.shape, 1000, width=4)
    assert (full.weights, full.optimizer) == (4000, 8000)
    numbers = 20 * RANK * (4 * 1280 + 2 * (1280 + 1280) + 3 * (1280 + 5120))
    assert adapter_numbers(model.shape, RANK) == numbers
    lora = typical_needs(model.shape, 1000, width=2, rank=RANK)
    assert (lora.weights, lora.optimizer) == (2000 + 4 * numbers, 8 * numbers)
    assert half.rollouts == rollout_bytes(model.shape, TYPICAL, 2)
    assert half.update == update_bytes(model.shape, TYPICAL, 2)
    assert rollouts_alone(model.shape, 1000, 2) == 2000 + half.rollouts
