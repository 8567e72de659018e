"""config.json before a model is made: all kinds pass, what no weights could fill does not."""

import inspect

import pytest

from grpo_cli.models.classes import model_classes
from grpo_cli.models.config_check import check_config
from grpo_cli.untrusted_json import DamagedFile
from tests.support.llama import CONFIG
from tests.support.model_kinds import KINDS, config_of


@pytest.mark.parametrize("name", sorted(KINDS.keys() - {"olmo"}))  # olmo needs a package
def test_sound_configurations_pass(name: str) -> None:
    config = config_of(name)
    check_config(config, model_classes(config)[1], {})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("hidden_size", 10**12),
        ("hidden_size", "64"),
        ("hidden_size", None),
        ("intermediate_size", [128]),
        ("rope_scaling", {"dims": 10**12}),
        ("eos_token_id", "</s>"),
        ("layer_types", ["full_attention"] * 20_000),
    ],
)
def test_what_no_weights_could_fill_is_refused_by_name(field: str, value: object) -> None:
    config = CONFIG | {field: value}
    with pytest.raises(DamagedFile, match=f"has `{field}"):
        check_config(config, model_classes(config)[1], {})


@pytest.mark.parametrize(
    "field",
    [
        "vocab_size_per_layer_input",  # of Gemma 3n and 4: 262,144
        "shared_expert_intermediate_size",  # of Qwen2-MoE: 20,480
        "expert_hidden_dim",
        "block_ff_dim",  # of LFM2: 12,288
    ],
)
def test_a_size_in_whose_name_a_count_stands_is_a_size(field: str) -> None:
    class Arguments:
        def __init__(self, **kwargs: int) -> None: ...

    Arguments.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(field, inspect.Parameter.KEYWORD_ONLY, annotation=int)]
    )
    check_config({field: 262_144}, Arguments, {})
    with pytest.raises(DamagedFile, match=f"has `{field}"):
        check_config({field: 10**12}, Arguments, {})
