"""Name maps: two-way operations, `--rename`, and what an unfitting checkpoint is told."""

from dataclasses import replace

import numpy as np
import pytest

from grpo_cli.convert.dtypes import DTYPES
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.name_map import (
    CropRows,
    Rename,
    StripPrefix,
    backward,
    check_names,
    forward,
    parse_renames,
)
from grpo_cli.convert.outgoing import OutgoingTensor


def tensor(name: str, rows: int = 3) -> OutgoingTensor:
    values = np.arange(2 * rows, dtype="<f4").reshape(rows, 2)
    return OutgoingTensor(name=name, dtype=DTYPES["float32"], shape=values.shape, read=lambda: values)


def names(tensors: list[OutgoingTensor]) -> list[str]:
    return [one.name for one in tensors]


def test_a_prefix_goes_and_stays_away() -> None:
    there = forward([StripPrefix("_orig_mod.")], [tensor("_orig_mod.a._orig_mod."), tensor("b")])
    assert names(there) == ["a._orig_mod.", "b"]
    assert names(backward([StripPrefix("_orig_mod.")], there)) == ["a._orig_mod.", "b"]


@pytest.mark.parametrize(
    ("old", "new", "name", "renamed"),
    [
        ("a.weight", "b.weight", "a.weight", "b.weight"),
        ("a.weight", "b.weight", "xa.weight", "xa.weight"),
        ("a.weight", "b.weight", "axweight", "axweight"),  # the dot is a dot
        ("model.*", "*", "model.wte.weight", "wte.weight"),
        ("model.layers.*.q", "transformer.h.*.attn.c_q", "model.layers.11.q", "transformer.h.11.attn.c_q"),
        ("l.*.a.*", "h.*.b.*", "l.3.a.weight", "h.3.b.weight"),
        ("l.*.a.*", "h.*.b.*", "l..a.weight", "l..a.weight"),  # a star stands for something
    ],
)
def test_a_renaming_and_its_way_back(old: str, new: str, name: str, renamed: str) -> None:
    there = forward([Rename(old, new)], [tensor(name)])
    assert names(there) == [renamed]
    if renamed != name:
        assert names(backward([Rename(old, new)], there)) == [name]


def test_operations_come_back_in_reverse() -> None:
    operations = [Rename("a", "b"), Rename("b", "c")]
    there = forward(operations, [tensor("a")])
    assert names(there) == ["c"]
    assert names(backward(operations, there)) == ["a"]


def test_rows_are_cropped_and_come_back_as_zeros() -> None:
    crop = [CropRows(("lm_head.weight",), padded=5, rows=3)]
    head, other = forward(crop, [tensor("lm_head.weight", 5), tensor("other", 5)])
    assert head.shape == (3, 2) and other.shape == (5, 2)
    assert head.read().tolist() == [[0, 1], [2, 3], [4, 5]]
    (back,) = backward(crop, [head])
    assert back.shape == (5, 2)
    assert back.read().tolist() == [[0, 1], [2, 3], [4, 5], [0, 0], [0, 0]]
    (alone,) = forward(crop, [tensor("lm_head.weight", 4)])  # not what was announced: left as it is
    assert alone.shape == (4, 2)


def test_rename_texts() -> None:
    assert parse_renames(["a=b", "x.*=y.*"]) == [Rename("a", "b"), Rename("x.*", "y.*")]


@pytest.mark.parametrize("text", ["a", "=b", "a=", "a.*=b", "a=b.*.*"])
def test_a_rename_text_that_is_none(text: str) -> None:
    with pytest.raises(ConversionError) as error:
        parse_renames([text])
    assert error.value.message == f"Failed to convert model: --rename {text} is not OLD=NEW"


def test_names_and_shapes_that_fit() -> None:
    check_names({"a": (1, 2), "b": (3,)}, {"b": (3,), "a": (1, 2)}, "model.pt")


def test_everything_that_does_not_fit_is_listed() -> None:
    found = {"a": (1, 2), "x": (1,), "y": (2,)}
    expected = {"a": (1, 3), "b": (1,), **{f"c{index}": (1,) for index in range(8)}}
    with pytest.raises(ConversionError) as error:
        check_names(found, expected, "model.pt")
    assert error.value.message == (
        "Failed to convert model: the tensors of model.pt do not fit its model_config\n"
        "  missing: b, c0, c1, c2, c3, c4 and 3 more\n"
        "  unknown: x, y\n"
        "  of another shape: a is (1, 2), not (1, 3)"
    )
    assert "--rename OLD=NEW" in error.value.hint


def test_operations_read_nothing_before_it_is_asked_for() -> None:
    def explode() -> np.ndarray:
        raise AssertionError("read")

    lazy = replace(tensor("a", 5), read=explode)
    forward([StripPrefix("x"), Rename("a", "b"), CropRows(("b",), 5, 3)], [lazy])
