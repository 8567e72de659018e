"""Checkpoints that nanochat itself wrote, converted, against what nanochat itself computed with them."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from transformers import AutoTokenizer

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.convert.options import Options
from grpo_cli.convert.run import convert
from grpo_cli.convert.to_nanochat import convert_back
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.engine.update.batch import make_microbatches
from grpo_cli.engine.update.forward import ForwardPlan, token_logprobs
from grpo_cli.engine.update.gradient import accumulate
from grpo_cli.models.load import Policy, load_policy
from grpo_cli.models.tree import flat
from tests.support import forked
from tests.support.nanochat_checkpoints import GENUINE, tensors_of
from tests.support.random_models import group, rollout
from tests.support.steps import objective_of
from tests.support.waiting import HANG

pytestmark = pytest.mark.skipif(not GENUINE.exists(), reason="needs ../shared/fixtures/nanochat")

# name → (file of logits, how far ours may be off)
LOGITS = {"oct2025-small": ("logits_fp32_exactrope", 5e-5), "head-sft-small": ("logits_fp32", 2e-5)}
NAMES = list(LOGITS)


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(str(GENUINE / name), Options(output=tmp_path_factory.mktemp(name) / "model")).output


@pytest.fixture(scope="module")
def policy(folder: Path) -> Policy:
    return load_policy(str(folder), dtype="float32")


def stored_json(name: str, file: str) -> Any:
    return json.loads((GENUINE / name / file).read_text(encoding="utf-8"))


def test_logits(name: str, policy: Policy) -> None:
    file, bound = LOGITS[name]
    stored = np.load(GENUINE / name / f"{file}.npz")
    prompts = {key.partition(".")[0] for key in stored}
    assert len(prompts) >= 2
    for prompt in prompts:
        logits = np.array(policy.model(mx.array(stored[f"{prompt}.ids"])[None])[0])
        assert np.abs(logits[stored[f"{prompt}.pos"]] - stored[f"{prompt}.logits"]).max() < bound
        assert (logits.argmax(-1) == stored[f"{prompt}.argmax"]).all()


class Endless:
    """The model's tokenizer without end tokens: the original's plain loop does not stop."""

    eos_ids: frozenset[int] = frozenset()
    control_ids: frozenset[int] = frozenset()

    def __init__(self, wrapped: Any) -> None:
        self.spell = wrapped.spell


@pytest.mark.parametrize("together", [True, False])
def test_greedy_ids_through_the_cache(name: str, policy: Policy, together: bool) -> None:
    """Alone, and in one batch of prompts of different lengths with two completions each."""
    entries = list(stored_json(name, "greedy.json")["prompts"].values())
    prompts = [entry["prompt_ids"] for entry in entries]
    assert len({len(prompt) for prompt in prompts}) == 3
    endless = Policy(
        model=policy.model, tokenizer=Endless(policy.tokenizer), config={}, path=policy.path, source=""
    )  # type: ignore[arg-type]
    sampling = Sampling(max_new_tokens=24, temperature=0.0)
    if together:
        rollouts = generate(endless, prompts, 2, sampling)
    else:
        rollouts = [generate(endless, [prompt], 1, sampling)[0] for prompt in prompts]
    for entry, twins in zip(entries, rollouts, strict=True):
        assert all(one.token_ids == entry["naive_greedy_ids"] for one in twins)


def test_token_ids(name: str, policy: Policy, folder: Path) -> None:
    """tiktoken's through our tokenizer, and through transformers' AutoTokenizer."""
    fast = AutoTokenizer.from_pretrained(folder)
    for case in stored_json(name, "tokens.json")["texts"]:
        assert policy.tokenizer.encode(case["text"]) == case["ids"]
        assert fast.encode(case["text"], add_special_tokens=False) == case["ids_special"]


def test_conversations(name: str, policy: Policy) -> None:
    tokenizer: Any = policy.tokenizer
    for case in stored_json(name, "conversations.json"):
        messages = case["conversation"]["messages"]
        assert tokenizer.render(messages) == (case["ids"], case["mask"])
        if case["completion_ids"]:
            assert tokenizer.encode_prompt(messages[:-1]) == case["completion_ids"]


def test_and_back(name: str, folder: Path, tmp_path: Path) -> None:
    back = convert_back(str(folder), Options(output=tmp_path / "back"), lambda *_: None, lambda _: None)
    (original,) = (GENUINE / name).glob("model_*.pt")
    assert tensors_of(back.output / original.name) == tensors_of(original)
    meta = original.name.replace("model", "meta").replace(".pt", ".json")
    assert json.loads((back.output / meta).read_text()) == stored_json(name, meta)


@pytest.mark.parametrize("variant", ["orig_mod_prefix", "cuda_location"])
def test_variants_hold_the_same_model(variant: str, tmp_path: Path) -> None:
    source = tmp_path / variant
    source.mkdir()
    for target, file in {
        "model_000650.pt": f"variants/{variant}.pt",
        "meta_000650.json": "variants/meta_000466_oct_chat_rl.json",  # it holds no step
        "tokenizer.pkl": "variants/tokenizer_proto2.pkl",
    }.items():
        (source / target).symlink_to((GENUINE / file).resolve())
    done = convert(str(source), Options(output=tmp_path / "model"))
    exact = convert(str(GENUINE / "oct2025-small"), Options(output=tmp_path / "exact"))
    assert (done.output / "model.safetensors").read_bytes() == (
        exact.output / "model.safetensors"
    ).read_bytes()


# --- nanochat's own reinforcement learning -----------------------------------------------------------


@pytest.fixture(scope="module")
def october(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    output = tmp_path_factory.mktemp("october") / "model"
    return load_policy(str(convert(str(GENUINE / "oct2025-small"), Options(output=output)).output), "float32")


@pytest.mark.parametrize("share_prefix", [True, False])
def test_losses_and_gradients_of_chat_rl(october: Policy, share_prefix: bool) -> None:
    """Its losses, logprob sums and gradient norms for a batch; its rope tables are bfloat16, hence 3e-3.

    Two passes of four sequences: ours are given two prompts, so that a microbatch is a pass of theirs.
    """
    recorded = stored_json("oct2025-small", "rl_objective.json")
    prompt = recorded["prompt_ids"]
    rollouts = [
        rollout([token for token, own in zip(ids, mask, strict=True) if own], advantage=advantage)
        for ids, mask, advantage in zip(
            recorded["sequences"], recorded["masks"], recorded["advantages"], strict=True
        )
    ]
    size = recorded["device_batch_size"]
    passes = [group(prompt, rollouts[start : start + size]) for start in range(0, len(rollouts), size)]
    batches = make_microbatches(passes, LOSS_TYPES["reinforce"], 40, 1, has_reference=False)
    assert [batch.token_count for batch in batches] == recorded["num_valid_per_pass"]
    objective = objective_of("reinforce", 1.0, 0.2, 0.2, 0.0, share_prefix)

    sums = [
        value
        for batch in batches
        for value in (token_logprobs(october.model, batch, 1.0, ForwardPlan(share_prefix)) * batch.loss_mask)
        .sum(axis=1)
        .tolist()
    ]
    assert sums == pytest.approx(recorded["sum_logp_per_sequence"], rel=3e-3)
    for batch, loss in zip(batches, recorded["loss_per_pass"], strict=True):
        _, alone = accumulate(october.model, [batch], objective)
        assert alone.loss == pytest.approx(loss, rel=3e-3)

    gradients, result = accumulate(october.model, batches, objective)
    assert result.loss == pytest.approx(recorded["total_loss"], rel=3e-3)
    norms = {
        tensor: mx.linalg.norm(gradient.reshape(-1)).item() for tensor, gradient in flat(gradients).items()
    }
    assert norms == pytest.approx(recorded["grad_l2_norm"], rel=3e-3)


# --- as a person uses it -----------------------------------------------------------------------------


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = forked.run(["-m", *command], cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def test_plain_mlx_lm_says_the_same(folder: Path, tmp_path: Path) -> None:
    prompt = ["--prompt", "What is the capital of France?", "--max-tokens", "24"]
    trust = ["--trust-remote-code"] if (folder / "nanochat_v2.py").exists() else []
    theirs = run("mlx_lm", "generate", "--model", str(folder), "--temp", "0", *prompt, *trust, cwd=tmp_path)
    ours = run("grpo_cli", "generate", "--model", str(folder), *prompt, cwd=tmp_path)
    _, text, _ = theirs.stdout.split("==========\n")
    assert text == ours.stdout
    assert len(text) > 20


TRAINING = """
dataset = "arithmetic"
dataset_config = "1"
system_prompt = ""
completion_prefix = ""
reward_functions = ["rewards.py:mean_letter"]
num_generations = 4
max_new_tokens = 12
batch_size = 2
max_steps = 3
learning_rate = 1e-3
eval_steps = 0
save_steps = 0
"""
REWARD = """
def mean_letter(prompts, completions, **columns):
    texts = [completion[0]["content"] for completion in completions]
    return [sum(map(ord, text)) / max(len(text), 1) / 100 for text in texts]
"""


def test_mlx_lms_server_answers_two_at_once(folder: Path, tmp_path: Path) -> None:
    """Conversations of different lengths, decoded in one batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(folder), "--port", str(port)]
    trust = ["--trust-remote-code"] if (folder / "nanochat_v2.py").exists() else []
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([*command, *trust], stdout=log, stderr=log)
    try:
        questions = ["What is the capital of France?", "And of Spain, and why? " * 8]
        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(lambda question: asked(port, question), questions))
    finally:
        server.kill()
        server.wait()
    ours = load_policy(str(folder))
    for question, answer in zip(questions, answers, strict=True):
        ids = ours.tokenizer.encode_prompt([{"role": "user", "content": question}])
        (expected,) = generate(ours, [ids], 1, Sampling(max_new_tokens=16, temperature=0.0))[0]
        assert answer == expected.text


def asked(port: int, question: str) -> str:
    """What the server answers, greedily; once it has started."""
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": 16, "temperature": 0.0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    deadline = time.monotonic() + HANG
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=HANG) as response:
                text: str = json.load(response)["choices"][0]["message"]["content"]
                return text
        except urllib.error.URLError:
            time.sleep(0.5)
    raise AssertionError("the server did not start")


@pytest.mark.parametrize("rank", [0, 4])
def test_three_steps_of_training_and_back(name: str, folder: Path, rank: int, tmp_path: Path) -> None:
    (tmp_path / "train.toml").write_text(TRAINING)
    (tmp_path / "rewards.py").write_text(REWARD)
    settings = [f"model_name={folder}", f"lora_rank={rank}", "run_name=run", "log_completions=0"]
    options = [word for setting in settings for word in ("--set", setting)]
    run("grpo_cli", "train", "--config", "train.toml", *options, cwd=tmp_path)
    log = (tmp_path / "outputs/run/training_log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2, 3]
    assert all(json.loads(line)["grad_norm"] > 0 for line in log)
    final = tmp_path / "outputs/run/final"
    done = run("grpo_cli", "convert", "--to", "nanochat", str(final), "--output", "back", cwd=tmp_path)
    assert "tensors read back bit for bit" in done.stdout
    (original,) = (GENUINE / name).glob("model_*.pt")
    before, after = tensors_of(original), tensors_of(tmp_path / "back/model_000003.pt")
    assert {n: value[:2] for n, value in before.items()} == {n: value[:2] for n, value in after.items()}
    assert any(before[tensor] != after[tensor] for tensor in before)  # it has learnt something
    again = run("grpo_cli", "convert", "back", "--output", "again", cwd=tmp_path)
    assert "tensors equal the original's, bit for bit" in again.stdout
    ids = mx.array([[1, 2, 3, 4, 5]])
    trained, returned = load_policy(str(final)), load_policy(str(tmp_path / "again"))
    # nanochat stores some embeddings in bfloat16: what is rounded there is all that may differ.
    bound = 0.05 if name == "oct2025-small" else 1e-5
    assert mx.abs(trained.model(ids) - returned.model(ids)).max().item() < bound
