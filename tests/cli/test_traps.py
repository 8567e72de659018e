"""A stranger's folder: no code of it runs, and nothing it says steers the terminal."""

import ast
import builtins
import contextlib
import json
import os
import pty
import py_compile
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_cli import trust
from grpo_cli.config.of_model import config_for_evaluation, config_of_model
from grpo_cli.engine.run_dir.resume_point import refuse_unnamed_code
from grpo_cli.errors import CheckpointError, GrpoError
from grpo_cli.models.load import load_policy
from grpo_cli.rewards.table import load_rewards
from tests.bench.traps import RUN_CONFIG, run, steering
from tests.support.llama import write_llama
from tests.support.traps import REWARDS, STEERING, TRAPS, Trap

LOADS = ["--only", "tokenizer", "--only", "chat-template"]
ROOT = Path(__file__).parents[2]
LIBRARIES = ("transformers", "mlx_lm", "datasets", "tokenizers", "huggingface_hub")
CODED = """
from transformers import PreTrainedTokenizerFast
open({sentinel!r}, "a").write("trusted")
class CodedTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama") / "m")


@pytest.fixture
def trap(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trap:
    """A folder in which code lies ready, as the current folder's neighbour."""

    def asked(*_: object) -> str:
        raise AssertionError("a library asked")

    monkeypatch.setattr(builtins, "input", asked)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLX_GRPO_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    shutil.copytree(llama, tmp_path / "m")
    return Trap(tmp_path / "m", tmp_path / "sentinel")


# --- a model's code ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAPS)
def test_no_code_of_a_model_s_folder_runs(trap: Trap, name: str) -> None:
    TRAPS[name](trap)
    with contextlib.suppress(GrpoError):
        policy = load_policy(str(trap.folder))
        policy.tokenizer.encode_prompt([{"role": "user", "content": "hello"}])
    assert not trap.sentinel.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["convert", "m", "--output", "mlx"],
        ["convert", "m", "--output", "small", "--quantize", "--group-size", "32"],
        ["convert", "--fuse", "m", "--output", "fused"],
        ["generate", "--model", "m", "--prompt", "1 + 1", "--max-tokens", "3"],
        ["generate", "--model", "m", "--prompt", "1 + 1", "--max-tokens", "3", "--set", "tools=auto"],
        ["eval", "--model", "m", "--samples", "1", "--json"],
        ["eval", "--model", "m", "--samples", "1", "--json", "--set", "tools=auto"],
        ["eval", "--model", "m", "--samples", "1", "--json", "--set", "environment="],
        ["env", "try", "guess", "--model", "m", "--json"],
        ["train", "--config", "mine.toml", "--quiet"],
        ["resume", "m"],
        ["doctor", "--model", "m", *LOADS],
        ["doctor", "--checkpoint", "m", "--json", "--only", "checkpoint-files"],
        ["doctor", "--run", "m", "--only", "run-log"],
        ["config", "validate", "m/config.toml"],
        ["config", "show", "m/config.toml"],
    ],
    ids=" ".join,
)
def test_every_command_runs_no_code_and_what_it_writes_names_none(trap: Trap, words: list[str]) -> None:
    TRAPS["everywhere"](trap)
    for name in ("tokenizer_config.json", "config.json"):
        trap.change(name, note=STEERING)
    config = RUN_CONFIG.format(output=trap.folder.parent, name="m", reward=trap.folder / "evil.py:f")
    code = trap.folder / "evil.py"
    (trap.folder / "config.toml").write_text(f'{config}\ntools = ["{code}:f"]\nenvironment = "{code}:F"\n')
    mine = RUN_CONFIG.format(output=trap.folder.parent, name="mine", reward="correctness")
    Path("mine.toml").write_text(mine.replace('"tiny"', '"m"'))
    done = run(*words)
    assert not trap.sentinel.exists()
    assert steering(done.output) == ""
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    if words[0] in ("train", "generate", "eval") or words[-1] == "mlx":
        assert done.exit_code == 0, done.output
    written = [*Path().glob("mine/*/*.json"), *Path().glob("mlx/*"), *Path().glob("small/*")]
    assert bool(written) == (words[0] == "train" or "mlx" in words or "small" in words)
    for path in written:
        assert path.suffix != ".py"
        if path.suffix == ".json":
            assert not [key for key in trust.CODE_KEYS if f'"{key}"' in path.read_text()]


def test_a_tokenizer_s_own_code_runs_where_a_person_said_so_and_once(trap: Trap) -> None:
    (trap.folder / "tokenization_coded.py").write_text(CODED.format(sentinel=str(trap.sentinel)))
    names = {"AutoTokenizer": [None, "tokenization_coded.CodedTokenizer"]}
    trap.change("tokenizer_config.json", auto_map=names, tokenizer_class="CodedTokenizer")
    trap.change("config.json", model_type="llama")
    refused = run("convert", "m", "--output", "mlx")
    plain = refused.exit_code == 0  # transformers may know a tokenizer for the model by itself
    assert plain or "needs code of its own" in refused.output
    assert not trap.sentinel.exists()
    done = run("convert", "m", "--output", "again", "--trust-remote-code")
    assert done.exit_code == 0, done.output
    assert trap.sentinel.read_text().startswith("trusted")
    trap.sentinel.unlink()
    assert load_policy("again").tokenizer.encode("12 + 30") == load_policy("tiny").tokenizer.encode("12 + 30")
    assert not trap.sentinel.exists()
    assert not list(Path("again").glob("*.py"))
    assert "auto_map" not in (Path("again") / "tokenizer_config.json").read_text()


# A call with one of these names may run code of what it loads.
LOADERS = {
    "from_pretrained",
    "load_dataset",
    "load_model",
    "load_tokenizer",
    "mlx_lm_load",
    "from_config",
    "convert",
}


def test_every_loader_of_a_library_is_told_that_no_code_is_trusted() -> None:
    found = []
    for path in sorted((ROOT / "grpo_cli").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        libraries = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom | ast.Import)
            for alias in node.names
            if (getattr(node, "module", None) or alias.name).partition(".")[0] in LIBRARIES
        }
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            function = ast.unparse(call.func)
            loads = function.rpartition(".")[2] in LOADERS and function.partition(".")[0] in libraries
            if loads:
                found.append((path.name, function, "trust_remote_code" in ast.unparse(call)))
    assert [call for call in found if not call[2]] == []
    configurations = {"AutoConfig.from_pretrained", "PreTrainedConfig.from_pretrained"}
    loaders = {"datasets.load_dataset", "load_model", "load_tokenizer"}
    assert {name for _, name, _ in found} == configurations | loaders


# --- rewards -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("reward", REWARDS)
def test_an_evaluation_leaves_out_rewards_that_only_a_folder_names(
    trap: Trap, reward: str, inside: bool
) -> None:
    named = f"{trap.folder}/{reward}" if inside else reward
    (trap.folder / "config.toml").write_text(RUN_CONFIG.format(output=".", name="m", reward=named))
    loaded = config_for_evaluation("m", None, [])
    assert loaded.config.reward_functions == ["correctness"]
    assert f"{named} is left out" in loaded.warnings[0].message
    assert config_for_evaluation("m", "m/config.toml", []).config.reward_functions == [named]


@pytest.mark.parametrize("judge", ["stranger/judge", "m"])
def test_an_evaluation_downloads_no_judge_that_only_a_folder_names(trap: Trap, judge: str) -> None:
    config = RUN_CONFIG.format(output=".", name="m", reward="judge")
    (trap.folder / "config.toml").write_text(f'{config}\njudge = "{judge}"\neval_reward = "judge"\n')
    loaded = config_for_evaluation("m", None, [])
    is_here = judge == "m"
    assert loaded.config.reward_functions == ["judge" if is_here else "correctness"]
    assert loaded.config.eval_reward == ("judge" if is_here else "")
    told = [warning.message.partition(",")[0] for warning in loaded.warnings]
    assert told == [] if is_here else [f"the reward judge is left out: {judge} is not on this machine"]
    for asked in (
        config_for_evaluation("m", "m/config.toml", []),
        config_for_evaluation("m", None, [f"judge={judge}"]),
    ):
        assert asked.config.reward_functions == ["judge"]


def test_a_run_resumes_with_its_own_rewards_and_a_received_one_asks_for_their_name(trap: Trap) -> None:
    text = RUN_CONFIG.format(output="outputs", name="mine", reward="m/evil.py:f")
    Path("mine.toml").write_text(text)
    assert run("train", "--config", "mine.toml", "--quiet").exit_code == 0
    trap.sentinel.unlink()
    goes_on = run("resume", "outputs/mine", "--set", "max_steps=2", "--quiet")
    assert goes_on.exit_code == 0, goes_on.output
    trap.sentinel.unlink()
    trust.named_here().unlink()  # another person's computer
    refused = run("resume", "outputs/mine", "--set", "max_steps=3", "--quiet")
    assert refused.exit_code == 1
    assert "names code that you have not named on this computer: m/evil.py" in refused.stderr
    assert not trap.sentinel.exists()
    command = refused.stderr.replace("\n", " ").partition("name it to allow it: `grpo ")[2].partition("`")[0]
    named = run(*shlex.split(command), "--set", "max_steps=3", "--quiet")
    assert named.exit_code == 0, named.output
    assert trap.sentinel.exists()
    assert trust.named_here().exists()  # known from now on


@pytest.mark.parametrize(
    ("key", "value"), [("tools", ["m/evil.py:f"]), ("environment", "guess, m/evil.py:F")]
)
def test_tools_and_environments_follow_the_rule_for_rewards(trap: Trap, key: str, value: object) -> None:
    """A model's folder names them in vain; a run's are run where its person named them before."""
    text = RUN_CONFIG.format(output=".", name="m", reward="correctness") + f"\n{key} = {json.dumps(value)}\n"
    (trap.folder / "config.toml").write_text(text)
    loaded = config_for_evaluation("m", None, [])
    assert not any(entry.startswith("m/") for entry in loaded.config.code_entries)
    assert "m/evil.py" in loaded.warnings[0].message
    assert not any("evil" in entry for entry in config_of_model("m").code_entries)
    config = config_for_evaluation("m", "m/config.toml", []).config
    assert any("evil" in entry for entry in config.code_entries)
    with pytest.raises(CheckpointError, match="names code that you have not named on this computer") as error:
        refuse_unnamed_code(config, Path("m"), [])
    assert f"--set '{key}=" in error.value.hint
    refuse_unnamed_code(config, Path("m"), [f"{key}={json.dumps(value)}"])
    refuse_unnamed_code(config, Path("m"), [])  # known from now on
    assert not trap.sentinel.exists()


def test_the_source_that_a_person_can_read_is_what_runs(trap: Trap) -> None:
    source = trap.folder / "mine.py"
    source.write_text("def f(completions, **columns):\n    return [0.5]\n")
    hidden = trap.folder / "__pycache__" / f"mine.{sys.implementation.cache_tag}.pyc"
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(trap.folder / "evil.py"), str(hidden), invalidation_mode=unchecked)
    ((_, function),) = load_rewards([f"{source}:f"])
    assert function(completions=["x"]) == [0.5]
    assert not trap.sentinel.exists()


# --- texts -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("trap")
def test_texts_of_a_configuration() -> None:
    file = Path(f"a{STEERING}.toml".replace("\x85", ""))
    quoted = json.dumps(STEERING)
    file.write_text(f"{quoted} = 1\nseed = {quoted}\nmodel_name = {quoted}\nreward_functions = [{quoted}]\n")
    told = run("config", "validate", str(file))
    assert told.exit_code == 2
    assert "␛]0;t␇" in told.stderr
    assert steering(told.output) == ""
    document = run("config", "validate", str(file), "--json")
    assert steering(document.output) == ""
    assert json.loads(document.stdout)["files"][0]["file"] == str(file)
    Path("b.toml").write_text(f"system_prompt = {quoted}\n")
    shown = run("config", "show", "b.toml")
    assert steering(shown.output) == ""
    Path("c.toml").write_text(shown.stdout)
    assert run("config", "show", "c.toml").stdout.split("  # ")[0] == shown.stdout.split("  # ")[0]


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "--model", "m", "--prompt", "hi"],
        ["generate", "--model", f"x{STEERING}", "--prompt", "hi"],
        ["eval", "--model", "tiny", "--dataset", "rows.jsonl", "--samples", "1"],
        ["eval", "--model", "tiny", "--dataset", f"{STEERING}.jsonl"],
        ["launch", "--hostfile", "hosts.json", "train"],
        ["doctor", "--hosts", "hosts.json"],
        ["doctor", "--run", "logs", "--only", "rewards-zero", "--only", "run-log"],
        ["train", "--config", STEERING],
        ["resume", STEERING],
        ["convert", STEERING],
        ["train", f"--{STEERING}"],
        [STEERING],
    ],
    ids=lambda words: " ".join(words[:2]).encode("ascii", "replace").decode(),
)
def test_texts_of_other_files_and_of_the_command_line(trap: Trap, words: list[str]) -> None:
    refusal = "{{ raise_exception(" + json.dumps(STEERING) + ") }}"
    (trap.folder / "chat_template.jinja").write_text(refusal)
    rows = [{"question": STEERING, "answer": STEERING, STEERING: 1}]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("hosts.json").write_text(json.dumps({"hosts": [{"ssh": f"-o{STEERING}", "ips": []}], STEERING: 1}))
    Path("logs").mkdir()
    lines = [{"step": step, "reward_mean": 0, f"rewards/{STEERING}": 0} for step in range(1, 9)]
    Path("logs/training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Path("logs/completions.jsonl").write_text(json.dumps({"step": 8, "completion": STEERING}) + "\n")
    done = run(*words)
    assert done.exit_code != 0 or words[1] == "--run"
    assert steering(done.output) == ""
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception


@pytest.mark.usefixtures("trap")
def test_on_a_terminal_only_our_own_sequences_come_through() -> None:
    Path("a.toml").write_text(f"{json.dumps(STEERING)} = 1\n", encoding="utf-8")
    leader, follower = pty.openpty()
    words = [sys.executable, "-m", "grpo_cli", "config", "validate", "a.toml", f"{STEERING}.toml"]
    process = subprocess.Popen(words, stdout=follower, stderr=follower, stdin=follower, close_fds=True)
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux tells that the other end is closed
        while data := os.read(leader, 4096):
            shown += data
    os.close(leader)
    assert process.wait() == 2
    text = shown.decode()
    assert "␛]0;t␇" in text
    assert "\x1b[" in text  # our own colors
    assert not [sequence for sequence in ("\x1b]", "\x1b[2J", "\x1bP", "\b", "\x07") if sequence in text]
    assert steering(text.replace("\x1b", "").replace("\r\n", "\n")) == ""
