"""Peak memory of a conversion: a nanochat checkpoint of a given size, made here, and its peak.

    uv run python -m tests.bench.convert --gigabytes 2

The checkpoint has the real one's shapes (hidden 1280, vocabulary 32768, as many layers as fill the size)
and random numbers. The peak is that of the whole process, as the system counts it.
"""

import argparse
import itertools
import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tiktoken

from grpo_cli.convert.dtypes import DTYPES, Array
from grpo_cli.convert.outgoing import OutgoingTensor
from grpo_cli.convert.torch_writer import write_torch_file
from grpo_cli.models.nanochat_tokenizer import SPECIAL_TOKENS

PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Size:
    """The shape of a checkpoint of October 2025."""

    layers: int
    hidden: int = 1280
    vocabulary: int = 32768

    @property
    def layer_bytes(self) -> int:
        """Of one layer, in float32."""
        return 12 * self.hidden**2 * 4


def size_of(gigabytes: float, hidden: int = 1280, vocabulary: int = 32768) -> Size:
    """As many layers as fill so many gigabytes."""
    embeddings = hidden * vocabulary * 6  # one in float32, one in bfloat16
    one = Size(1, hidden, vocabulary)
    return Size(max(1, round((gigabytes * 1e9 - embeddings) / one.layer_bytes)), hidden, vocabulary)


def write_checkpoint(folder: Path, size: Size) -> Path:
    """Write the checkpoint's files; returns the model's."""
    path = folder / "model_000001.pt"
    write_torch_file(path, list(tensors(size)))
    heads = max(1, size.hidden // 128)
    config = {"sequence_len": 2048, "vocab_size": size.vocabulary, "n_layer": size.layers}
    config |= {"n_head": heads, "n_kv_head": heads, "n_embd": size.hidden}
    (folder / "meta_000001.json").write_text(json.dumps({"step": 1, "model_config": config}))
    (folder / "tokenizer.pkl").write_bytes(pickle.dumps(vocabulary(size.vocabulary), protocol=4))
    return path


def tensors(size: Size) -> Iterator[OutgoingTensor]:
    """The tensors of October 2025, made when they are written."""
    numbers, width = np.random.default_rng(0), size.hidden

    def tensor(name: str, rows: int, columns: int, stored: str = "float32") -> OutgoingTensor:
        def read() -> Array:
            return numbers.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)

        return OutgoingTensor(
            name=name, dtype=DTYPES["float32"], shape=(rows, columns), read=read, save_as=DTYPES[stored]
        )

    yield tensor("transformer.wte.weight", size.vocabulary, width, "bfloat16")
    for layer in range(size.layers):
        for part in ("c_q", "c_k", "c_v", "c_proj"):
            yield tensor(f"transformer.h.{layer}.attn.{part}.weight", width, width)
        yield tensor(f"transformer.h.{layer}.mlp.c_fc.weight", 4 * width, width)
        yield tensor(f"transformer.h.{layer}.mlp.c_proj.weight", width, 4 * width)
    yield tensor("lm_head.weight", size.vocabulary, width)


def vocabulary(count: int) -> tiktoken.Encoding:
    """A vocabulary of so many tokens: all bytes, then pairs of ASCII characters, then triples."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    texts = (bytes(text) for length in (2, 3) for text in itertools.product(range(32, 127), repeat=length))
    for text in itertools.islice(texts, count - 256 - len(SPECIAL_TOKENS)):
        ranks[text] = len(ranks)
    special = {name: len(ranks) + index for index, name in enumerate(SPECIAL_TOKENS)}
    return tiktoken.Encoding("rustbpe", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)


def peak_of(*words: str) -> tuple[float, float]:
    """Peak memory in MB and seconds of a `grpo` command; it must succeed."""
    program = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run([sys.executable, '-m', 'grpo_cli', *sys.argv[1:]], stdout=sys.stderr)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.exit(done.returncode)"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return int(done.stdout) * unit / 1e6, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, help="a disk with room for twice that")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        path = write_checkpoint(folder, size_of(chosen.gigabytes))
        print(f"checkpoint: {path.stat().st_size / 1e9:.2f} GB")
        source, model = str(folder), str(folder / "out")
        for options in ([], ["--no-verify"], ["--dtype", "bfloat16"], ["--quantize"]):
            peak, seconds = peak_of("convert", source, "--output", model, "--force", *options)
            print(f"grpo convert {' '.join(options)}: peak {peak:.0f} MB, {seconds:.1f} s")
        peak_of("convert", source, "--output", model, "--force", "--no-verify")
        peak, seconds = peak_of("convert", "--to", "nanochat", model, "--output", str(folder / "back"))
        print(f"grpo convert --to nanochat: peak {peak:.0f} MB, {seconds:.1f} s")


if __name__ == "__main__":
    main()
