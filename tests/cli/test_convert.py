"""`grpo convert` as a person runs it: from the hub, from a folder, with its mistakes."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from grpo_cli.cli.main import app
from grpo_cli.engine.train import train
from tests.support.forked import start
from tests.support.hub_server import HubServer
from tests.support.llama import write_llama
from tests.support.nanochat_checkpoints import write_checkpoint
from tests.support.small_runs import small
from tests.support.waiting import HANG

D32 = "karpathy/nanochat-d32"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "d3")


@pytest.fixture
def files(checkpoint: Path) -> dict[str, Path]:
    """A repository with a checkpoint."""
    return {path.name: path for path in checkpoint.iterdir()}


def grpo(*words: str) -> Result:
    return CliRunner().invoke(app, ["convert", *words])


def test_what_a_person_sees(checkpoint: Path) -> None:
    done = grpo(str(checkpoint))
    assert done.exit_code == 0, done.stderr
    assert done.stderr.splitlines() == [
        "writing the weights (391.2 kB) …",
        "comparing with the original (391.2 kB) …",
        "checking every number (393.1 kB) …",
        "generating a few tokens …",
    ]
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert lines[:4] == [
        "✓  weights      20 of 20 tensors equal the original's, bit for bit",
        "✓  strict load  20 tensors, names and shapes match nanochat",
        "✓  finite       97,792 numbers, none NaN or infinite",
        "✓  tokenizer    21 tricky texts to the original's ids and back",
    ]
    assert lines[4].startswith("✓  generation   “The capital of France is” → “")
    assert lines[6:9] == [
        "97.8 k weights      size  bits per weight",
        "original        333.9 kB            27.31",
        "converted       393.1 kB            32.16",
    ]
    assert lines[10:] == [
        "The model is in models/d3-mlx. To use it:",
        '  grpo generate --model models/d3-mlx --prompt "…"',
        "  grpo train --config nanochat_grpo --set model_name=models/d3-mlx",
        '  mlx_lm.generate --model models/d3-mlx --prompt "…"',
    ]


def test_back_to_nanochat(checkpoint: Path) -> None:
    assert grpo(str(checkpoint), "--no-verify").exit_code == 0
    done = grpo("--to", "nanochat", "models/d3-mlx")
    assert done.exit_code == 0, done.stderr
    assert "✓  weights  20 of 20 tensors read back bit for bit" in done.stdout
    assert done.stdout.splitlines()[-3:] == [
        "  mkdir -p ~/.cache/nanochat/chatrl_checkpoints/d3 && cp models/d3-nanochat/model_*.pt "
        "models/d3-nanochat/meta_*.json ~/.cache/nanochat/chatrl_checkpoints/d3",
        "  mkdir -p ~/.cache/nanochat/tokenizer && cp -n models/d3-nanochat/tokenizer.pkl "
        "~/.cache/nanochat/tokenizer && cmp models/d3-nanochat/tokenizer.pkl "
        "~/.cache/nanochat/tokenizer/tokenizer.pkl  # another run's tokenizer garbles text",
        "  python -m scripts.chat_cli -i rl -g d3",
    ]


def test_commands_of_llama_cpp_for_a_gguf(tmp_path: Path) -> None:
    llama = write_llama(tmp_path / "my llama")
    done = grpo("--to", "gguf", str(llama), "--output", "out/my hf")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-4:] == [
        "The model is in out/my hf. To use it:",
        "  git clone --depth 1 https://github.com/ggml-org/llama.cpp",
        "  pip install -r llama.cpp/requirements.txt",
        "  python llama.cpp/convert_hf_to_gguf.py 'out/my hf' --outfile 'out/my hf.gguf' --outtype auto",
    ]
    assert (Path("out/my hf") / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x", "--bits", "4"], "--bits and --group-size need --quantize"),
        (["x", "--quantize", "--bits", "5"], "'5' is not one of '2', '3', '4', '6', '8'"),
        (["x", "--quantize", "--group-size", "48"], "'48' is not one of '32', '64', '128'"),
        (["x", "--dtype", "int8"], "'int8' is not one of"),
        (["x", "--to", "onnx"], "'onnx' is not one of"),
        (["x", "--to", "gguf", "--quantize"], "which llama.cpp quantizes: leave out --quantize"),
        (["x", "--to", "nanochat", "--quantize"], "keeps nanochat's own data types and names"),
        ([], "Missing argument 'SOURCE'"),
    ],
)
def test_mistakes_of_usage(words: list[str], said: str) -> None:
    done = grpo(*words)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())


def test_failures_have_the_guides_first_line(checkpoint: Path) -> None:
    data = (checkpoint / "model_000650.pt").read_bytes()
    (checkpoint / "model_000650.pt").write_bytes(data[:-100])
    done = grpo(str(checkpoint))
    assert done.exit_code == 1
    first, empty, hint, more = done.stderr.splitlines()
    assert more == "more: `grpo doctor --explain conversion`"
    assert first == (
        f"Failed to convert model: {checkpoint}/model_000650.pt is cut off or damaged "
        "(its zip directory cannot be read)"
    )
    assert (empty, hint) == ("", "hint: download or copy the file again")
    assert list(Path().iterdir()) == []


def test_help_shows_two_examples() -> None:
    help_text = grpo("--help").stdout
    assert "grpo convert nanochat-d32 --dtype bfloat16" in help_text
    assert "grpo convert --to nanochat outputs/nanochat_grpo/final" in help_text


def test_bars_on_a_terminal(checkpoint: Path) -> None:
    """A pseudo-terminal of 80 columns; the bars are gone when it is over."""
    reader, writer = pty.openpty()
    process = start(
        ["-m", "grpo_cli", "convert", str(checkpoint)],
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"},
        stdout=subprocess.DEVNULL,
        stderr=writer,
    )
    os.close(writer)
    shown = b""
    while True:
        try:
            block = os.read(reader, 65536)
        except OSError:  # the other end was closed
            break
        if not block:
            break
        shown += block
    os.close(reader)
    assert process.wait(HANG) == 0
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode()
    assert "generating a few tokens" in text
    assert "writing the weights (" not in text  # the plain lines of no terminal


# --- from the hub ------------------------------------------------------------------------------------


def test_from_the_hub_and_again_from_its_cache(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer({D32: files}) as server:
        server.use(monkeypatch, tmp_path)
        done = grpo("nanochat-d32")
        assert done.exit_code == 0, done.stderr
        assert "20 of 20 tensors equal the original's, bit for bit" in done.stdout
        assert Path("models/nanochat-d32-mlx/config.json").exists()
        again = grpo("nanochat-d32")
        assert again.exit_code == 1
        assert again.stderr.splitlines()[0] == (
            "Failed to convert model: models/nanochat-d32-mlx exists already"
        )
        assert len(server.transfers("model_000650.pt")) == 1


def run(server: HubServer, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "grpo_cli", "convert", *words],
        env=server.environment(folder),
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )


def test_a_connection_that_is_cut_goes_on(files: dict[str, Path], tmp_path: Path) -> None:
    with HubServer({D32: files}) as server:
        server.cut["model_000650.pt"] = [100_000]
        done = run(server, tmp_path, "nanochat-d32")
        assert done.returncode == 0, done.stderr
        assert [request.range for request in server.transfers("model_000650.pt")] == [None, "bytes=100000-"]
    assert "bit for bit" in done.stdout


@pytest.mark.parametrize(
    ("fault", "first", "hint"),
    [
        ("404", f"Model not found on the hub: {D32}", "check the spelling"),
        ("401", f"Model not found on the hub: {D32} is private or misspelled (401)", "hf auth login"),
        ("damaged", f"Damaged in the download from {D32}: model_000650.pt", "run the same command again"),
    ],
)
def test_what_the_hub_refuses(
    fault: str,
    first: str,
    hint: str,
    files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with HubServer({} if fault == "404" else {D32: files}) as server:
        if fault == "401":
            server.private.add(D32)
        if fault == "damaged":
            server.damaged.add("model_000650.pt")
        server.use(monkeypatch, tmp_path)
        done = grpo("nanochat-d32")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-4].startswith(first)
    assert hint in done.stderr.splitlines()[-2]
    assert "Traceback" not in done.stderr
    assert list(Path().iterdir()) == []


def test_no_hub_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer({}) as server:
        server.use(monkeypatch, tmp_path)
    done = grpo("nanochat-d32")
    assert done.exit_code == 1
    assert "cannot be reached" in done.stderr
    assert "not in the local cache" in done.stderr


def test_fuse_and_a_checkpoint_that_is_damaged(tmp_path: Path) -> None:
    final = train(small(tmp_path, lora_rank=2, max_steps=1))
    done = grpo("--fuse", str(final))
    assert done.exit_code == 0, done.stderr
    assert "adding the adapters to their base …" in done.stderr.splitlines()
    assert re.search(r"✓ +fused +logits differ from the adapted model's by at most", done.stdout)
    assert "grpo generate --model models/run-final-mlx" in done.stdout
    (final / "adapters.safetensors").write_bytes((final / "adapters.safetensors").read_bytes()[:-1])
    failed = grpo("--fuse", str(final), "--output", "other")
    assert failed.exit_code == 1
    assert f"{final} is damaged: adapters.safetensors has" in failed.stderr
    assert not Path("other").exists()


@pytest.mark.parametrize("words", [["--step", "1"], ["--rename", "a=b"], ["--to", "nanochat"]])
def test_what_means_nothing_with_fuse(words: list[str]) -> None:
    failed = grpo("--fuse", "somewhere", *words)
    assert failed.exit_code == 2
    assert "--to nanochat fuses adapters without --fuse" in " ".join(failed.stderr.replace("│", "").split())
