"""The pickle interpreter against the standard one, and what it refuses."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.models.pickle_reader import RefusedPickle, read_pickle, shown

TOKENIZER = Path(__file__).parents[1] / "fixtures" / "nanochat" / "tokenizer.pkl"


def read(data: bytes, allowed: dict[str, Any] | None = None) -> Any:
    return read_pickle(data, allowed or {}, "which a test has no use for")


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_those_of_the_standard_unpickler(protocol: int) -> None:
    shared = ["x", "é\n\U0001f600"]
    value = {
        "numbers": [0, -1, 255, 65536, -(2**31), 2**63, -(2**80), 1.5, -0.25],
        "constants": (None, True, False),
        "shared": (shared, shared, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "empty": ([], {}, ""),
        "many": list(range(2500)),
    }
    found = read(pickle.dumps(value, protocol=protocol))
    assert found == value
    assert found["shared"][0] is found["shared"][1]


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_bytes(protocol: int) -> None:
    value = {b"key": bytes(range(256)) * 2}
    assert read(pickle.dumps(value, protocol=protocol)) == value


def test_only_what_the_table_holds_is_called() -> None:
    data = pickle.dumps(complex(1, 2), protocol=2)
    assert read(data, {"builtins.complex": complex, "__builtin__.complex": complex}) == complex(1, 2)
    with pytest.raises(RefusedPickle, match=r"^it names __builtin__\.complex, which a test has no use for$"):
        read(data)


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "it is not a readable pickle (pickle exhausted before seeing STOP)"),
        (b"N", "it is not a readable pickle (pickle exhausted before seeing STOP)"),
        (b"NN.", "it is not a readable pickle (it does not end with one object)"),
        (b"(N.", "it is not a readable pickle (it does not end with one object)"),
        (b"\x85.", "it is not a readable pickle (its stack is empty)"),
        (b"t.", "it is not a readable pickle (pop from empty list)"),
        (b"N(Nu.", "it sets items of a NoneType"),
        (b"}(Nu.", "it sets items of a dict"),
        (b"}NNs.", "it has a dictionary key of the type NoneType"),
        (b"NNa.", "it appends to a NoneType"),
        (b"NN\x93.", "it names something by a value that is not text"),
        (b"N)R.", "it calls a NoneType, which a test has no use for"),
        (b"NNb.", "it sets the state of a NoneType"),
        (b"NQ.", "it refers to an object outside the file"),
        (b"Pid\n.", "it refers to an object outside the file"),
        (b"N0.", "it uses the pickle operation POP, which a test has no use for"),
    ],
)
def test_what_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(RefusedPickle) as error:
        read(data)
    assert str(error.value) == reason


def test_text_is_shown_safely() -> None:
    assert shown("os.system") == "os.system"
    assert shown("a\nb") == r"'a\nb'"
    assert shown("x" * 500) == "x" * 120 + "…"
