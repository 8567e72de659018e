"""A .pt file that was written is read back: what is damaged in it is seen, and a meta that does not fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grpo_cli.convert import outgoing
from grpo_cli.convert.dtypes import DTYPES
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.options import CheckResult, no_progress
from grpo_cli.convert.outgoing import OutgoingTensor
from grpo_cli.convert.to_nanochat import verify_file
from grpo_cli.convert.torch_writer import write_torch_file
from tests.support.nanochat_checkpoints import SMALL, shapes_of

Tensors = dict[str, OutgoingTensor]
FC = "transformer.h.0.mlp.c_fc.weight"
META = {"step": 650, "model_config": SMALL}


def tensors() -> Tensors:
    """October's, with normal numbers; the embeddings are written in bfloat16."""

    def tensor(index: int, name: str, shape: tuple[int, ...]) -> OutgoingTensor:
        values = np.random.default_rng(index).normal(size=shape).astype("<f4")
        stored = "bfloat16" if "wte" in name else "float32"
        return OutgoingTensor(
            name=name, dtype=DTYPES["float32"], shape=shape, read=lambda: values, save_as=DTYPES[stored]
        )

    return {name: tensor(i, name, shape) for i, (name, shape) in enumerate(shapes_of("october").items())}


def written(path: Path, change: Callable[[Tensors], object]) -> Path:
    """The file of these tensors with a change."""
    changed = tensors()
    change(changed)
    write_torch_file(path, list(changed.values()))
    return path


def transpose(changed: Tensors, name: str = FC) -> None:
    """The same numbers, rows as columns."""
    tensor = changed[name]
    changed[name] = replace(tensor, shape=tensor.shape[::-1], read=lambda: tensor.read().T)


def set_number(changed: Tensors, name: str, place: tuple[int, int], value: float) -> None:
    values = changed[name].read()
    values[place] = value


def checked(path: Path, meant: Tensors, meta: dict[str, object] = META) -> CheckResult:
    return verify_file(path, meta, list(meant.values()), no_progress)


def test_a_file_that_reads_back(tmp_path: Path) -> None:
    path, told = written(tmp_path / "model_000650.pt", lambda _: None), []
    check = verify_file(path, META, list(tensors().values()), lambda *step: told.append(step))
    assert check == CheckResult("weights", True, "20 of 20 tensors read back bit for bit")
    size = 2 * 32_000 + 4 * (97_792 - 32_000)
    assert len(told) == 20
    assert told[:2] == [("comparing", 0, size), ("comparing", 64_000, size)]
    assert told[-1] == ("comparing", size - 128_000, size)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (transpose, FC),
        (lambda found: found.update({FC: replace(found[FC], save_as=DTYPES["bfloat16"])}), FC),
        (lambda found: found.update({FC: replace(found[FC], save_as=DTYPES["float64"])}), FC),
        (lambda found: found.pop("lm_head.weight"), "lm_head.weight"),
        (lambda found: found.update(bigram=replace(found[FC], name="bigram")), "bigram"),
        (lambda found: found.update({FC: replace(found[FC], name="fc")}), f"fc, {FC}"),
        (
            lambda found: [found.pop(name) for name in list(found)[1:]],
            "lm_head.weight, transformer.h.0.attn.c_k.weight, transformer.h.0.attn.c_proj.weight",
        ),
    ],
    ids=["transposed", "bfloat16", "float64", "missing", "left over", "renamed", "many"],
)
def test_other_names_shapes_and_formats(
    change: Callable[[Tensors], object], names: str, tmp_path: Path
) -> None:
    check = checked(written(tmp_path / "model_000650.pt", change), tensors())
    assert check == CheckResult("weights", False, f"{names} differ from the expected values")


@pytest.mark.parametrize("piece", [1 << 18, 100])
@pytest.mark.parametrize(
    ("name", "place"),
    [("transformer.wte.weight", (0, 0)), (FC, (64, 3)), ("lm_head.weight", (999, 31))],
)
def test_one_number_that_is_another(
    name: str, place: tuple[int, int], piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "PIECE", piece)
    path = written(tmp_path / "model_000650.pt", lambda found: set_number(found, name, place, 0.0))
    assert checked(path, tensors()) == CheckResult(
        "weights", False, f"{name} does not read back as it was written"
    )


def test_the_sign_of_a_zero_is_a_bit_too(tmp_path: Path) -> None:
    path = written(tmp_path / "model_000650.pt", lambda found: set_number(found, FC, (0, 0), 0.0))
    meant = tensors()
    set_number(meant, FC, (0, 0), -0.0)
    assert checked(path, meant) == CheckResult("weights", False, f"{FC} does not read back as it was written")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_embd": 40}, "of another shape: transformer.wte.weight is (1000, 32), not (1000, 40)"),
        ({"n_layer": 4}, "missing: transformer.h.3.attn.c_q.weight"),
        ({"n_layer": 2}, "unknown: transformer.h.2.attn.c_q.weight"),
        ({"window_pattern": "SSL"}, "its tensors are those of models without windows"),
    ],
)
def test_a_meta_that_does_not_fit(fields: dict[str, object], words: str, tmp_path: Path) -> None:
    path = written(tmp_path / "model_000650.pt", lambda _: None)
    with pytest.raises(ConversionError) as error:
        checked(path, tensors(), {"model_config": {**SMALL, **fields}})
    assert words in error.value.message
    assert str(path) in error.value.message


def test_what_was_meant_wrong_does_not_fit_the_meta_either(tmp_path: Path) -> None:
    """Written as it was meant, and nanochat's loader would still refuse it."""
    meant = tensors()
    transpose(meant)
    with pytest.raises(ConversionError) as error:
        checked(written(tmp_path / "model_000650.pt", transpose), meant)
    assert error.value.message.endswith(f"of another shape: {FC} is (32, 128), not (128, 32)")
