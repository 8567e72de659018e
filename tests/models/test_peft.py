"""PEFT's adapters as mlx-lm's: the logits are those of weights merged by hand, and training keeps them so."""

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest

from grpo_cli.convert.fuse import fuse
from grpo_cli.convert.options import Options
from grpo_cli.engine.train import train
from grpo_cli.errors import ModelError
from grpo_cli.models.adapters import add_adapters
from grpo_cli.models.load import load_policy
from grpo_cli.models.peft import to_peft
from grpo_cli.models.tree import flat
from tests.support.peft_folders import llama, path_of, peft_tensors, write_peft
from tests.support.shaken_adapters import shaken
from tests.support.small_runs import small

IDS = mx.array([[5, 7, 11, 13, 17]])
BOTH = (0, 1)  # layers


def merged(base: Path, tensors: dict[str, mx.array], scales: dict[str, float]) -> mx.array:
    """Logits (1, T, V) of the base with W + scale · B A, by hand."""
    policy = load_policy(str(base))
    weights = flat(policy.model.parameters())
    for path, scale in scales.items():
        a, b = (tensors[f"base_model.model.{path}.lora_{one}.weight"] for one in "AB")
        weights[f"{path}.weight"] = weights[f"{path}.weight"] + scale * (b @ a)
    policy.model.load_weights(list(weights.items()))
    logits: mx.array = policy.model(IDS)
    return logits


def far(a: mx.array, b: mx.array) -> float:
    return float(mx.abs(a - b).max().item())


CASES: dict[str, tuple[dict[str, int], dict[str, Any], dict[str, float]]] = {
    "alpha / r": (
        {path_of(layer, "q_proj"): 4 for layer in BOTH}, {}, {path_of(layer, "q_proj"): 3.0 for layer in BOTH}
    ),
    "rsLoRA": (
        {path_of(layer, name): 4 for layer in BOTH for name in ("q_proj", "v_proj", "up_proj")},
        {"use_rslora": True},
        {path_of(layer, name): 6.0 for layer in BOTH for name in ("q_proj", "v_proj", "up_proj")},
    ),
    "patterns": (
        {path_of(0, "q_proj"): 2, path_of(1, "q_proj"): 4} | {path_of(one, "up_proj"): 7 for one in BOTH},
        {
            "rank_pattern": {"layers.0.self_attn.q_proj": 2, "up_proj": 7},
            "alpha_pattern": {r".*\.1\.mlp\.\w+": 14},
        },
        {
            path_of(0, "q_proj"): 6.0,
            path_of(1, "q_proj"): 3.0,
            path_of(0, "up_proj"): 12 / 7,
            path_of(1, "up_proj"): 2.0,
        },
    ),
    "one module of one layer": ({path_of(1, "v_proj"): 4}, {}, {path_of(1, "v_proj"): 3.0}),
    "rsLoRA and patterns": (
        {path_of(0, "q_proj"): 2, path_of(1, "q_proj"): 4},
        {"use_rslora": True, "rank_pattern": {"0.self_attn.q_proj": 2}},
        {path_of(0, "q_proj"): 12 / math.sqrt(2), path_of(1, "q_proj"): 6.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_function_is_that_of_weights_merged_by_hand(name: str, tmp_path: Path) -> None:
    ranks, settings, scales = CASES[name]
    base, tensors = llama(tmp_path / "base"), peft_tensors(ranks)
    policy = load_policy(str(write_peft(tmp_path / "peft", tensors, base, **settings)))
    expected = merged(base, tensors, scales)
    assert far(expected, merged(base, tensors, {})) > 0.01
    assert far(policy.model(IDS), expected) < 1e-5
    adapted = {name.rpartition(".")[0] for name in flat(policy.model.trainable_parameters())}
    assert adapted == set(ranks)
    assert policy.lora is not None
    assert policy.lora.rank == max(ranks.values())


def test_a_checkpoint_of_a_run_from_them_is_mlx_lms_and_padded_ranks_stay_zero(tmp_path: Path) -> None:
    ranks, settings, _ = CASES["patterns"]
    base = llama(tmp_path / "base")
    folder = write_peft(tmp_path / "peft", peft_tensors(ranks), base, **settings)
    run = small(tmp_path, model_name=str(folder), learning_rate=1e-3, weight_decay=0.1, max_steps=2,
                temperature=1.5, reward_functions=["xmlcount", f"{LETTERS}:mean_letter"])  # fmt: skip
    final = train(run)
    plain, _ = mlx_lm.utils.load(str(base), adapter_path=str(final))
    ours = load_policy(str(final)).model
    assert far(plain(IDS), ours(IDS)) < 1e-6
    stored: Any = mx.load(str(final / "adapters.safetensors"))
    before: Any = load_policy(str(folder)).model.trainable_parameters()
    a, b = (stored[f"{path_of(0, 'q_proj')}.lora_{one}"] for one in "ab")
    assert a.shape[1] == b.shape[0] == 7
    assert mx.all(a[:, 2:] == 0).item()
    assert mx.all(b[2:] == 0).item()
    assert far(a[:, :2], flat(before)[f"{path_of(0, 'q_proj')}.lora_a"][:, :2]) > 0


LETTERS = Path(__file__).parents[1] / "support" / "letter_reward.py"


def test_embedding_and_head_of_an_untied_model(tmp_path: Path) -> None:
    """lora_embedding_A (r, V) and lora_embedding_B (H, r): row x of the table is W[x] + scale · Aᵀ[x] Bᵀ."""
    base = llama(tmp_path / "base", tied=False)
    keys = mx.random.split(mx.random.key(9), 4)
    shapes = {
        "model.embed_tokens.lora_embedding_A": (4, 316), "model.embed_tokens.lora_embedding_B": (64, 4),
        "lm_head.lora_A.weight": (4, 64), "lm_head.lora_B.weight": (316, 4),
    }  # fmt: skip
    tensors = {
        f"base_model.model.{name}": 0.3 * mx.random.normal(shape, key=key)
        for (name, shape), key in zip(shapes.items(), keys, strict=True)
    }
    policy = load_policy(str(write_peft(tmp_path / "peft", tensors, base)))
    plain = load_policy(str(base)).model
    weights = flat(plain.parameters())
    a, b, head_a, head_b = tensors.values()
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"] + 3 * (a.T @ b.T)
    weights["lm_head.weight"] = weights["lm_head.weight"] + 3 * (head_b @ head_a)
    plain.load_weights(list(weights.items()))
    assert far(policy.model(IDS), plain(IDS)) < 1e-5 * max(1.0, float(mx.abs(plain(IDS)).max().item()))


def whole_module(folder: Path, base: Path) -> tuple[Path, mx.array]:
    norm = mx.full((64,), 1.5)
    tensors = peft_tensors({path_of(1, "v_proj"): 4}) | {"base_model.model.model.norm.weight": norm}
    return write_peft(folder, tensors, base, modules_to_save=["norm"]), norm


def test_whole_modules_are_fused_and_refused_in_training(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    folder, norm = whole_module(tmp_path / "peft", base)
    with pytest.raises(ModelError) as error:
        load_policy(str(folder))
    assert "(modules_to_save: model.norm)" in error.value.message
    assert error.value.hint == f"fuse them into a model and train that: `grpo convert --fuse {folder}`"
    done = fuse(str(folder), Options(output=tmp_path / "fused"))
    stored: Any = mx.load(str(done.output / "model.safetensors"))
    assert mx.array_equal(stored["model.norm.weight"], norm)


def test_saved_modules_equal_to_the_base_change_nothing(tmp_path: Path) -> None:
    """PEFT saves the embedding again when it is asked to, trained or not."""
    base = llama(tmp_path / "base")
    weights: Any = mx.load(str(base / "model.safetensors"))
    tensors = peft_tensors({path_of(1, "v_proj"): 4})
    same = {"base_model.model.model.embed_tokens.weight": weights["model.embed_tokens.weight"]}
    policy = load_policy(str(write_peft(tmp_path / "peft", tensors | same, base)))
    assert far(policy.model(IDS), merged(base, tensors, {path_of(1, "v_proj"): 3.0})) < 1e-5


REFUSED: dict[str, dict[str, Any]] = {
    'peft_type = "IA3"': {"peft_type": "IA3"},
    'init_lora_weights = "pissa"': {"init_lora_weights": "pissa"},
    'bias = "all"': {"bias": "all"},
    "lora_bias = true": {"lora_bias": True},
    "layer_replication = [[0, 1]]": {"layer_replication": [[0, 1]]},
    "use_future = true": {"use_future": True},
    'alpha_pattern with "(a+)+b"': {"alpha_pattern": {"(a+)+b": 3}},
    f"rank 4 of {path_of(0, 'q_proj')}, for which adapter_config.json says 8": {"r": 8},
    f"{path_of(0, 'q_proj')} with lora_A, lora_B": {"use_dora": True},
}


@pytest.mark.parametrize("named", REFUSED)
def test_settings_without_a_counterpart_are_named(named: str, tmp_path: Path) -> None:
    tensors = peft_tensors({path_of(0, "q_proj"): 4})
    folder = write_peft(tmp_path / "peft", tensors, llama(tmp_path / "base"), **REFUSED[named])
    with pytest.raises(ModelError) as error:
        load_policy(str(folder))
    assert error.value.message.endswith(f"mlx-lm has no counterpart for {named}")


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight", "the module model.layers.7.self"),
        ("base_model.model.model.norm.lora_A.weight", "adapters on model.norm, a RMSNorm"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "adapters on model.embed_tokens alone"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", "the tensor model.layers.0.self_attn.q_proj"),
    ],
)
def test_tensors_without_a_counterpart_are_named(name: str, named: str, tmp_path: Path) -> None:
    folder = write_peft(tmp_path / "peft", {name: mx.ones((4, 64))}, llama(tmp_path / "base"))
    with pytest.raises(ModelError) as error:
        load_policy(str(folder))
    assert f"mlx-lm has no counterpart for {named}" in error.value.message


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        ((4,), (64, 4), r"no counterpart for lora_A of .*q_proj in the shape \(4,\)"),
        ((4, 64), (64,), "no counterpart for lora_B of"),
        ((4, 64), (64, 5), "do not fit"),
        ((4, 63), (64, 4), "do not fit"),
        ((4, 64), (63, 4), "do not fit"),
    ],
)  # fmt: skip
def test_tensors_of_other_shapes(a: tuple[int, ...], b: tuple[int, ...], told: str, tmp_path: Path) -> None:
    name = f"base_model.model.{path_of(0, 'q_proj')}"
    tensors = {f"{name}.lora_A.weight": mx.ones(a), f"{name}.lora_B.weight": mx.ones(b)}
    folder = write_peft(tmp_path / "peft", tensors, llama(tmp_path / "base"))
    with pytest.raises(ModelError, match=told):
        load_policy(str(folder))


def test_only_a_pickle(tmp_path: Path) -> None:
    folder = write_peft(tmp_path / "peft", peft_tensors({path_of(0, "q_proj"): 4}), llama(tmp_path / "base"))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"only in adapter_model\.bin, a pickle that can run code"):
        load_policy(str(folder))


def test_back_again_bit_for_bit(tmp_path: Path) -> None:
    """One rank and one scale for all: nothing is padded or multiplied."""
    ranks, settings, _ = CASES["alpha / r"]
    tensors = peft_tensors(ranks)
    policy = load_policy(str(write_peft(tmp_path / "peft", tensors, llama(tmp_path / "base"), **settings)))
    back = to_peft(flat(policy.model.trainable_parameters()))
    assert back.keys() == tensors.keys()
    assert all(mx.array_equal(back[name], tensors[name]) for name in tensors)


def test_mlx_lms_own_keys_are_written(tmp_path: Path) -> None:
    """Names within a layer where all layers are alike, else whole paths."""
    base = llama(tmp_path / "base")
    found = {}
    for name in ("alpha / r", "one module of one layer"):
        ranks, settings, _ = CASES[name]
        folder = write_peft(tmp_path / name.replace("/", ""), peft_tensors(ranks), base, **settings)
        lora = load_policy(str(folder)).lora
        assert lora is not None
        found[name] = lora.keys
        again = load_policy(str(base)).model
        add_adapters(again, lora)
        shaken(again)
        assert {one.rpartition(".")[0] for one in flat(again.trainable_parameters())} == set(ranks)
    assert found == {"alpha / r": ("self_attn.q_proj",), "one module of one layer": (path_of(1, "v_proj"),)}
    assert json.loads((base / "config.json").read_text())["num_hidden_layers"] == 2
