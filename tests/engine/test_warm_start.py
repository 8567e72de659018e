"""Runs that continue adapters: their reference, their checkpoints, and how they resume."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest
from mlx_lm.utils import quantize_model

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.engine import setup
from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir.checkpoint import START_ADAPTERS
from grpo_cli.engine.setup import trainable_policy
from grpo_cli.engine.train import train
from grpo_cli.engine.update.forward import token_logprobs
from grpo_cli.engine.update_policy import reference_logprobs, update_policy
from grpo_cli.errors import CheckpointError, ModelError
from grpo_cli.models.adapters import LoRA, add_adapters, save_adapters
from grpo_cli.models.find import TINY
from grpo_cli.models.load import load_policy
from grpo_cli.models.tree import flat
from tests.support.prepared_runs import prepared
from tests.support.resumed_runs import check_resumed
from tests.support.shaken_adapters import shaken
from tests.support.small_runs import SHORT, lines, small

LORA = LoRA(rank=3, scale=2.5, layers=2)


@pytest.fixture
def warm(tmp_path: Path) -> Path:
    """Trained adapters on the embedded model, in the form that `mlx_lm.lora` writes them."""
    folder = tmp_path / "warm"
    folder.mkdir()
    policy = load_policy("tiny")
    add_adapters(policy.model, LORA)
    save_adapters(shaken(policy.model), LORA, "tiny", folder)
    return folder


def stored(path: Path) -> dict[str, mx.array]:
    found: Any = mx.load(str(path))
    return dict(found)


def same(a: dict[str, mx.array], b: dict[str, mx.array]) -> bool:
    return a.keys() == b.keys() and all(mx.array_equal(a[name], b[name]).item() for name in a)


@pytest.mark.parametrize("named_by", ["model_name", "adapter"])
def test_training_goes_on_from_the_adapters(named_by: str, warm: Path) -> None:
    settings = {"model_name": str(warm)} if named_by == "model_name" else {"adapter": str(warm)}
    policy = trainable_policy(small(warm.parent, **settings))
    assert policy.lora == LORA
    assert policy.source == "tiny"
    assert same(flat(policy.model.trainable_parameters()), stored(warm / "adapters.safetensors"))
    assert same(policy.start, stored(warm / "adapters.safetensors"))


def test_the_base_beside_the_adapters_counts(warm: Path) -> None:
    """The folder names a base that is gone, as adapters from another machine do."""
    config = json.loads((warm / "adapter_config.json").read_text())
    (warm / "adapter_config.json").write_text(json.dumps({**config, "model": "/gone/model"}))
    assert trainable_policy(small(warm.parent, adapter=str(warm))).path == TINY


@pytest.mark.parametrize("kl_reference", ["start", "base"])
def test_the_reference_is_the_policy_of_the_first_step_or_the_base(kl_reference: str, warm: Path) -> None:
    run, batches = prepared(warm.parent, adapter=str(warm), kl_coeff=0.1, kl_reference=kl_reference)
    assert run.reference is None  # no second copy of the weights
    other = load_policy("tiny" if kl_reference == "base" else str(warm), "float32").model
    for batch in batches:
        expected = token_logprobs(other, batch, run.config.temperature, run.forward_plan)
        assert batch.ref_logprobs is not None
        assert mx.allclose(batch.ref_logprobs, expected, atol=1e-5)
    first = update_policy(run, 1, batches)["kl"]
    if kl_reference == "start":
        assert first == pytest.approx(0.0, abs=1e-6)
        assert update_policy(run, 2, batches)["kl"] > 1e-5  # the reference stays
    else:
        assert first > 1e-3


def test_after_the_reference_the_policy_has_its_own_adapters_again(warm: Path) -> None:
    run, batches = prepared(warm.parent, adapter=str(warm), kl_coeff=0.1)
    update_policy(run, 1, batches)
    before = flat(run.policy.model.trainable_parameters())
    at_first = [batch.ref_logprobs for batch in batches]
    again = [reference_logprobs(run, batch) for batch in batches]
    assert all(mx.allclose(a, b, atol=1e-6) for a, b in zip(again, at_first, strict=True) if b is not None)
    assert same(flat(run.policy.model.trainable_parameters()), before)
    assert not same(before, run.policy.start)


@pytest.mark.parametrize("kl_reference", ["start", "base"])
def test_interrupted_and_resumed_is_uninterrupted(kl_reference: str, warm: Path) -> None:
    start = {"model_name": "tiny", "adapter": str(warm)}
    check_resumed("kl", warm.parent, kl_reference=kl_reference, learning_rate=1e-3, **start)


def test_a_run_is_resumed_without_the_folder_that_it_started_from(warm: Path) -> None:
    """Its checkpoints hold the adapters of the first step, which are its reference."""
    changes = {"kl_coeff": 0.1, "learning_rate": 1e-3, "lr_scheduler_type": "constant"}
    settings = {**SHORT, "model_name": str(warm), **changes}
    whole = small(warm.parent, run_name="whole", **settings)
    train(whole)
    part = small(warm.parent, run_name="part", **{**settings, "max_steps": 3})
    final = train(part)
    assert same(stored(final / START_ADAPTERS), stored(warm / "adapters.safetensors"))
    shutil.rmtree(warm)
    again = resume(part.run_dir, ["max_steps=6"])
    assert [line["kl"] for line in lines(part.run_dir)] == [line["kl"] for line in lines(whole.run_dir)]
    name = "adapters.safetensors"
    assert (again / name).read_bytes() == (whole.run_dir / "final" / name).read_bytes()


def test_a_checkpoint_without_its_start_is_refused(warm: Path) -> None:
    final = train(small(warm.parent, adapter=str(warm), max_steps=1))
    (final / START_ADAPTERS).unlink()
    for keys in ({"adapter": str(warm)}, {"model_name": str(warm)}):
        with pytest.raises(CheckpointError, match=f"lacks {START_ADAPTERS}"):
            trainable_policy(small(warm.parent, max_steps=1, **keys), final)


def test_adapters_of_a_checkpoint_are_continued_in_a_new_run(warm: Path) -> None:
    first = train(small(warm.parent, adapter=str(warm), max_steps=1, learning_rate=1e-3))
    policy = trainable_policy(small(warm.parent, model_name=str(first)))
    assert same(policy.start, stored(first / "adapters.safetensors"))
    assert not same(policy.start, stored(first / START_ADAPTERS))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lora_rank": 8}, "lora_rank = 8, but training starts from the adapters in {0}, with 3"),
        (
            {"lora_type": "dora"},
            'lora_type = "dora", but training starts from the adapters in {0}, with "lora"',
        ),
        ({"lora_layers": 1}, "lora_layers = 1, but training starts from the adapters in {0}, with 2"),
        ({"lora_scale": 4.0}, "lora_scale = 4.0, but training starts from the adapters in {0}, with 2.5"),
    ],
)
def test_keys_that_contradict_the_adapters(changes: dict[str, Any], told: str, warm: Path) -> None:
    with pytest.raises(ModelError) as error:
        trainable_policy(small(warm.parent, adapter=str(warm), **changes))
    assert error.value.message == told.format(warm)
    agreeing = {"lora_rank": 3, "lora_layers": 2, "lora_scale": 2.5}
    assert trainable_policy(small(warm.parent, adapter=str(warm), **agreeing)).lora == LORA


def test_what_cannot_be_a_warm_start(warm: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no adapters: adapter_config\.json is missing"):
        trainable_policy(small(warm.parent, adapter=str(TINY)))
    with pytest.raises(ModelError, match="holds adapters, and so cannot be the base of `adapter`") as error:
        trainable_policy(small(warm.parent, model_name=str(warm), adapter=str(warm)))
    assert error.value.hint == "write its base into `model_name`: tiny"


@pytest.fixture
def quantized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The embedded model in 4 bits, on a device where quantised products are fast."""
    facts = dataclasses.replace(device.prepare(), upcast=False)
    monkeypatch.setattr(device, "prepare", lambda: facts)
    tiny = load_policy("tiny", "float32")
    model, config = quantize_model(tiny.model, dict(tiny.config), group_size=32, bits=4)
    folder = tmp_path / "tiny-4bit"
    folder.mkdir()
    mlx_lm.utils.save_model(folder, model)
    mlx_lm.utils.save_config(config, folder / "config.json")
    tiny.tokenizer.save(folder)
    return folder


def test_on_a_quantised_base_nothing_is_fused(quantized: Path, warm: Path) -> None:
    config = small(warm.parent, model_name=str(quantized), adapter=str(warm), kl_coeff=0.1)
    run = setup.prepare(config)
    assert "quantization" in run.policy.config
    base = stored(quantized / "model.safetensors")
    held = flat(run.policy.model.parameters())
    packed = [name for name, array in base.items() if array.dtype == mx.uint32]
    kept = [name for name in packed if any(
        other in held and mx.array_equal(held[other], base[name]).item()
        for other in (name, f"{name.rpartition('.')[0]}.linear.weight")
    )]  # fmt: skip
    assert kept == packed
    final = train(config.model_copy(update={"max_steps": 1}))
    assert not list(final.glob("model*"))
    assert lines(config.run_dir)[0]["kl"] == pytest.approx(0.0, abs=1e-6)


def test_the_keys_exist_with_their_defaults() -> None:
    assert (Config().adapter, Config().kl_reference) == ("", "start")
