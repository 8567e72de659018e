"""The .pt files of strangers: pickles that are no state dict or would do harm."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.pt_reading import SIX, everything, refused_index, six
from tests.support.pt_writer import Raw, call, code, name, tensor, write_pt

FIXTURES = Path(__file__).parents[1] / "fixtures" / "nanochat"

# --- pickles that are no state dict ---------------------------------------------------------------

IMPOSSIBLE = "it builds a tensor whose shape, stride or offset is impossible"


@pytest.mark.parametrize(
    "index, reason",
    [
        ([1], "it holds a list, not a state dict"),
        (6, "it holds an int, not a state dict"),
        ({}, "it is a state dict without tensors"),
        (six((6,), (1,))["w"], "it holds a single tensor, not a state dict"),
        ({"step": 7}, "its entry step is an int, not a tensor"),
        ({"model": six((6,), (1,))}, "its entry model is a dict, not a tensor"),
        ({"a\x1b[2J": 7}, "it holds a name that is not plain text"),
        ({7: 7}, "it has a dictionary key of the type int"),
        (six((7,), (1,)), "the tensor w goes past the end of its storage (element 7 of 6)"),
        (six((6,), (1,), 1), "the tensor w goes past the end of its storage (element 7 of 6)"),
        (six((2, 2), (3, 3)), "the tensor w goes past the end of its storage (element 7 of 6)"),
        (six((6,), (-1,), 5), IMPOSSIBLE),
        (six((6,), (1,), -1), IMPOSSIBLE),
        (six((6,), (1,), "0"), IMPOSSIBLE),
        (six((True,), (1,)), IMPOSSIBLE),
        (six((1 << 40, 1 << 40, 0), (0, 0, 0)), IMPOSSIBLE),
        (six((1 << 90000,), (1,)), IMPOSSIBLE),
        (six((1 << 40,), (0,)), "it builds a tensor far larger than its storage"),
        (six((6,), (1, 1)), "it builds a tensor of 1 sizes and 2 strides"),
        (six((1,) * 33, (1,) * 33), "it builds a tensor of 33 sizes and 33 strides"),
        (
            six((6,), (1,), 0, {"neg": True}),
            "it builds a tensor with lazy operations, which only torch can do",
        ),
        ({"w": tensor(Raw(code(6)), (6,), (1,))}, "it builds a tensor that has no storage"),
        (
            {"w": call("torch._utils._rebuild_parameter", 6, True, None)},
            "it builds a parameter that has no tensor",
        ),
        (
            {"w": Raw(code(("module", "x")) + b"Q")},
            "it refers to something outside the file that is not a storage",
        ),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else "",
)
def test_an_index_that_is_no_state_dict(tmp_path: Path, index: Any, reason: str) -> None:
    assert refused_index(tmp_path, index).startswith(reason)


# --- pickles that would do harm -------------------------------------------------------------------


@pytest.mark.parametrize(
    "function", ["os.system", "posix.system", "builtins.eval", "torch.load", "builtins.getattr"]
)
def test_a_program_is_named_and_not_run(tmp_path: Path, function: str) -> None:
    trace = tmp_path / "ran"
    index = {"w": call(function, f"touch {trace}")}
    assert refused_index(tmp_path, index) == f"it names {function}, which a state dict has no use for"
    assert not trace.exists()


def test_names_of_newer_protocols_and_of_old_instances(tmp_path: Path) -> None:
    why = "it names os.system, which a state dict has no use for"
    assert refused_index(tmp_path, b"\x80\x04" + code("os") + code("system") + b"\x93.") == why
    assert refused_index(tmp_path, b"(" + code("touch x") + b"ios\nsystem\n.") == why


def test_a_name_cannot_draw_on_the_terminal(tmp_path: Path) -> None:
    assert refused_index(tmp_path, b"cos\n\x1b[2Jsystem\n.") == (
        r"it names 'os.\x1b[2Jsystem', which a state dict has no use for"
    )


@pytest.mark.parametrize(
    "index, reason",
    [
        (call("torch.FloatStorage", 6), "it calls a DType"),
        (Raw(code("text") + b"(tR"), "it calls a str"),
        (
            Raw(name("torch._utils._rebuild_tensor_v2").code + code({"x": 1}) + b"b"),
            "it sets the state of a function",
        ),
        (Raw(code({}) + code({"x": 1}) + b"b"), "it sets the state of a dict"),
        (call("torch._utils._rebuild_tensor_v2", 1), "it calls with wrong arguments"),
        (call("collections.OrderedDict", [("a", 1)]), "it calls collections.OrderedDict with arguments"),
        (Raw(b"\x82\x01"), "it uses the pickle operation EXT1"),
        (Raw(b"r\xff\xff\xff\xff"), "it is not a readable pickle ("),
        (Raw(b"("), "it is not a readable pickle ("),
        (Raw(b"h\x07"), "it is not a readable pickle (7)"),
        (Raw(b"(" * 2000), "it is not a readable pickle (it is nested too deeply)"),
        (Raw(b"\x80\xff" + b"N"), "it is a pickle of the unknown protocol 255"),
    ],
)
def test_an_operation_that_a_state_dict_has_no_use_for(tmp_path: Path, index: Any, reason: str) -> None:
    assert refused_index(tmp_path, index).startswith(reason)


def test_a_memo_index_reserves_no_memory(tmp_path: Path) -> None:
    """The standard unpickler allocates eight bytes for each index below the largest."""
    index = code(six((6,), (1,)))
    path = write_pt(tmp_path / "x.pt", index + b"r\xff\xff\xff\xff.", [SIX.tobytes()])
    assert everything(path)["w"][2] == SIX.tobytes()


def test_tuples_in_tuples(tmp_path: Path) -> None:
    """Hashing or showing these would overflow the stack, or take 2^200 steps."""
    deep = b")" + b"\x85" * 500_000
    assert refused_index(tmp_path, Raw(deep)) == "it holds a tuple, not a state dict"
    wide = b")" + b"q\x00h\x00\x86" * 200
    assert refused_index(tmp_path, Raw(b"}" + wide + b"Ns")) == "it has a dictionary key of the type tuple"
    assert refused_index(tmp_path, Raw(code({"w": Raw(wide)}))) == "its entry w is a tuple, not a tensor"


def test_an_index_of_many_megabytes(tmp_path: Path) -> None:
    assert refused_index(tmp_path, b"N0" * (5 << 20)) == "it is larger than 8 MB"
