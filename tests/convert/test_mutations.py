"""Damage at random: every file is refused, or read exactly; never another exception, a hang or garbage.

Then pickles made to do harm, written by pickle itself.
"""

import io
import os
import pickle
import random
import signal
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken

from grpo_cli.convert.dtypes import DTYPES
from grpo_cli.convert.errors import ConversionError
from grpo_cli.errors import ModelError
from grpo_cli.models.nanochat_tokenizer import PROBE, read_encoding
from tests.support.mutations import mutated_bytes
from tests.support.pt_reading import SIX, everything, refusal
from tests.support.pt_writer import write_pt, write_records

FIXTURES = Path(__file__).parents[1] / "fixtures" / "nanochat"
SECONDS = 10  # for one file; it takes some milliseconds


def mutated(content: bytes, seed: int) -> bytes:
    """The content with one mutation."""
    return mutated_bytes(content, random.Random(seed))


class TookTooLong(BaseException):
    """No OSError, as TimeoutError is, which a reader could take for a broken disk."""


@contextmanager
def time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- .pt files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, exact", [("archive_root.pt", 0), ("parameter_value.pt", 42), ("strided_shared.pt", 29)]
)
def test_damaged_files_are_refused_or_read_exactly(tmp_path: Path, name: str, exact: int) -> None:
    """About `exact` of them are damaged only where nothing is read: in padding, or in what one release of
    Python's zipfile compares and another does not."""
    whole, content = everything(FIXTURES / name), (FIXTURES / name).read_bytes()
    outcomes: Counter[str] = Counter()
    for seed in range(200):
        (tmp_path / "x.pt").write_bytes(mutated(content, seed))
        try:
            with time_limit():
                found = everything(tmp_path / "x.pt")
        except ConversionError:
            outcomes["refused"] += 1
        else:
            assert list(found.items()) == list(whole.items()), seed
            outcomes["exact"] += 1
    assert outcomes.total() == 200
    assert abs(outcomes["exact"] - exact) <= 3


def test_damaged_indexes_in_an_intact_zip(tmp_path: Path) -> None:
    """Without a checksum to stop them: what is read is what the index, as it is now, stands for."""
    with zipfile.ZipFile(FIXTURES / "strided_shared.pt") as archive:
        records = {entry.filename.split("/", 1)[1]: archive.read(entry) for entry in archive.infolist()}
    whole = as_pickle_reads(records)
    assert whole == everything(FIXTURES / "strided_shared.pt")
    outcomes: Counter[str] = Counter()
    for seed in range(200):
        changed = records | {"data.pkl": mutated(records["data.pkl"], seed)}
        path = write_records(tmp_path / "x.pt", changed)  # with a checksum of the changed index
        try:
            with time_limit():
                found = everything(path)
        except ConversionError:
            outcomes["refused"] += 1
        else:
            assert list(found.items()) == list(as_pickle_reads(changed).items()), seed
            outcomes["exact" if found == whole else "as it says"] += 1
    assert outcomes == {"refused": 195, "exact": 3, "as it says": 2}


class Reference(pickle._Unpickler):
    """The standard unpickler with torch's functions in numpy. Only for what our reader has accepted."""

    def __init__(self, records: dict[str, bytes]) -> None:
        super().__init__(io.BytesIO(records["data.pkl"]))
        self.records = records

    def find_class(self, module: str, name: str) -> Any:
        stand_ins: dict[str, Any] = {"OrderedDict": OrderedDict, "_rebuild_tensor_v2": self.tensor}
        return stand_ins.get(name, f"{module}.{name}")

    def persistent_load(self, pid: Any) -> tuple[str, np.ndarray]:
        _, storage_class, key, _, _ = pid
        (dtype,) = (dtype for dtype in DTYPES.values() if dtype.storage == storage_class)
        return dtype.name, np.frombuffer(self.records[f"data/{key}"], dtype.bits)

    def tensor(self, storage: Any, offset: int, shape: Any, stride: Any, *_: Any) -> Any:
        name, numbers = storage
        steps = [step * numbers.itemsize for step in stride]
        view = np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps)
        return name, tuple(shape), view.tobytes()


def as_pickle_reads(records: dict[str, bytes]) -> dict[str, Any]:
    return dict(Reference(records).load())


# --- tokenizers -----------------------------------------------------------------------------------


def test_damaged_tokenizers_are_refused_or_read_exactly(tmp_path: Path) -> None:
    """A tokenizer.pkl has no checksum: what training could have given as well is read as it is.

    Of 2000 mutations 223 were readable with another content before its structure was checked; 34 still are.
    """
    whole, content = read_encoding(FIXTURES / "tokenizer.pkl"), (FIXTURES / "tokenizer.pkl").read_bytes()
    outcomes: Counter[str] = Counter()
    for seed in range(200):
        (tmp_path / "tokenizer.pkl").write_bytes(mutated(content, seed))
        try:
            with time_limit():
                found = read_encoding(tmp_path / "tokenizer.pkl")
                ids = found.encode_ordinary(PROBE)
        except ModelError as error:
            assert error.message.startswith("Failed to load tiktoken tokenizer: "), seed
            outcomes["refused"] += 1
        else:
            assert found.decode(ids) == PROBE, seed
            different = differences(found, whole)
            assert different <= 1, seed
            outcomes["one token differs" if different else "exact"] += 1
    assert outcomes == {"refused": 199, "one token differs": 1}


def differences(one: tiktoken.Encoding, other: tiktoken.Encoding) -> int:
    """How many tokens are others. All else is equal: pattern, special tokens, and which ids there are."""
    assert (one._pat_str, one._special_tokens) == (other._pat_str, other._special_tokens)
    by_id, others = ({rank: token for token, rank in e._mergeable_ranks.items()} for e in (one, other))
    assert by_id.keys() == others.keys()
    return sum(by_id[rank] != others[rank] for rank in others)


# --- pickles that would do harm -------------------------------------------------------------------


class Payload:
    """What pickle writes for it is a call, which the standard unpickler makes."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def payloads(canary: Path) -> dict[str, Payload]:
    return {
        f"{os.system.__module__}.system": Payload(os.system, f"touch {canary}"),
        "builtins.eval": Payload(eval, f"open({str(canary)!r}, 'w')"),
        "builtins.exec": Payload(exec, f"open({str(canary)!r}, 'w')"),
        "builtins.getattr": Payload(getattr, Payload(canary.open, "w"), "name"),
    }


PROTOCOLS = pytest.mark.parametrize("protocol", [0, 2, 4])
NAMES = pytest.mark.parametrize("name", payloads(Path()))


def named(name: str, protocol: int) -> str:
    """builtins as Python 2 calls them, before protocol 3; getattr's inner call comes after it."""
    return name.replace("builtins", "__builtin__") if protocol < 3 else name


@PROTOCOLS
@NAMES
def test_the_payloads_work(tmp_path: Path, name: str, protocol: int) -> None:
    """With the standard unpickler: otherwise the tests below would show nothing."""
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(payloads(canary)[name], protocol))
    assert canary.exists()


@PROTOCOLS
@NAMES
@pytest.mark.parametrize("place", ["alone", "value", "key"])
def test_a_state_dict_with_a_payload(tmp_path: Path, name: str, protocol: int, place: str) -> None:
    canary = tmp_path / "canary"
    payload = payloads(canary)[name]
    state = {"alone": payload, "value": {"w": payload}, "key": {payload: 1}}[place]
    path = write_pt(tmp_path / "x.pt", pickle.dumps(state, protocol), [SIX.tobytes()])
    assert refusal(path) == (
        "FILE was refused, and nothing in it was run: "
        f"it names {named(name, protocol)}, which a state dict has no use for"
    )
    assert not canary.exists()


@PROTOCOLS
@NAMES
def test_a_tokenizer_with_a_payload(tmp_path: Path, name: str, protocol: int) -> None:
    """In the place of a genuine encoding's pattern."""
    canary, path = tmp_path / "canary", tmp_path / "tokenizer.pkl"
    path.write_bytes(pickle.dumps(Payload(tiktoken.Encoding, "rustbpe", payloads(canary)[name]), protocol))
    with pytest.raises(ModelError) as error:
        read_encoding(path)
    assert error.value.message == (
        f"Failed to load tiktoken tokenizer: {path}: "
        f"it names {named(name, protocol)}, which a tokenizer has no use for"
    )
    assert not canary.exists()
