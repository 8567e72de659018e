"""Every kind of file of others that the program reads: a sound one, how it is mutated, and what reads it.

kind = KINDS["config.json"]
bench = kind.prepare(folder)              # sound files
outcome(kind, bench, seed=7)              # "refused", "read", "traceback: …", "wrong: …"
"""

import json
import random
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from grpo_cli.errors import CheckpointError, GrpoError
from grpo_cli.models.adapters import LoRA, add_adapters, save_adapters
from grpo_cli.models.find import TINY
from grpo_cli.models.load import load_policy
from grpo_cli.models.tree import flat
from tests.support.llama import write_llama
from tests.support.mutations import CANARY_MODULE, mutated_bytes, mutated_json, mutated_lines

FIXTURES = Path(__file__).parents[1] / "fixtures" / "nanochat"
TENSORS = "tensors"  # what a reader returns where the numbers must be the sound file's
Mutate = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Kind:
    """A kind of file. `read` returns what must not change without a refusal, None where anything may."""

    file: str
    prepare: Callable[[Path], Any]  # writes the sound files into a new folder
    read: Callable[[Path], Any]  # given the folder
    mutate: Mutate = mutated_json


# --- models -------------------------------------------------------------------------------------------


def model(folder: Path) -> None:
    write_llama(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [311, 5], "temperature": 0.6}')
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<|assistant_end|>"}')


def shards(folder: Path) -> None:
    model(folder)
    arrays: Any = mx.load(str(folder / "model.safetensors"))
    mx.eval(arrays)
    (folder / "model.safetensors").unlink()
    names, places = sorted(arrays), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        mx.save_safetensors(str(folder / file), {name: arrays[name] for name in part})
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def adapters(folder: Path) -> None:
    folder.mkdir()
    policy = load_policy("tiny")
    add_adapters(policy.model, LoRA(rank=2))
    save_adapters(policy.model, LoRA(rank=2), "tiny", folder)


def load(folder: Path) -> Any:
    """A model's answer to a prompt, so that everything of it is used."""
    policy = load_policy(str(folder))
    ids = policy.tokenizer.encode_prompt([{"role": "user", "content": "What is 2 + 2?"}])
    policy.tokenizer.decode(ids)
    assert isinstance(policy.tokenizer.vocab_size, int)
    assert all(isinstance(end, int) for end in policy.tokenizer.eos_ids)


def weights(folder: Path) -> Any:
    """Name → dtype, shape and sum of every parameter."""
    return {
        name: (str(array.dtype), array.shape, mx.abs(array).sum().item())
        for name, array in flat(load_policy(str(folder)).model.parameters()).items()
    }


def header_only(content: bytes, chance: random.Random) -> bytes:
    """A safetensors file whose header is mutated: of its numbers no reader could tell."""
    end = 8 + int.from_bytes(content[:8], "little")
    if chance.random() < 0.5:
        return mutated_bytes(content[:end], chance) + content[end:]
    header = mutated_json(content[8:end], chance)
    return len(header).to_bytes(8, "little") + header + content[end:]


# --- checkpoints, runs and hosts ----------------------------------------------------------------------


def checkpoint(folder: Path) -> None:
    from grpo_cli.config.schema import Config
    from grpo_cli.engine.run_dir.checkpoint import Snapshot, save_checkpoint
    from grpo_cli.engine.run_dir.run_state import RunState
    from grpo_cli.engine.update.optimizer import Optimizer
    from grpo_cli.types import Example, Rollout, RolloutGroup, StopReason

    policy = load_policy("tiny")
    add_adapters(policy.model, LoRA(rank=2))
    policy.lora = LoRA(rank=2)
    rollout = Rollout(
        token_ids=[5, 311],
        logprobs=[-0.5, -0.25],
        entropies=[0.5, 0.25],
        stop_reason=StopReason.EOS,
        text="4",
        rewards={"correctness": 1.0},
        reward=1.0,
        advantage=1.0,
    )
    example = Example(messages=[{"role": "user", "content": "2 + 2?"}], answer="4", columns={"level": 3})
    state = RunState(
        step=3,
        total_steps=9,
        prompts_used=12,
        random_state=[1, 2],
        evaluations=[{"step": 3, "eval_accuracy": 0.5}],
        log_positions={"training_log.jsonl": 100},
        data="abc",
        started_in="/tmp",
    )
    group = RolloutGroup(example, [1, 2, 3], [rollout, rollout])
    save_checkpoint(
        folder,
        Snapshot(
            policy=policy,
            optimizer=Optimizer(Config(), policy.model),
            config=Config(),
            state=state,
            groups=[group],
        ),
    )


def examine_manifest(folder: Path) -> None:
    from grpo_cli.engine.run_dir.manifest import damage, step_in_manifest

    if problem := damage(folder):
        raise CheckpointError(problem)
    step, _ = step_in_manifest(folder)
    assert isinstance(step, int)


def examine_state(folder: Path) -> None:
    from grpo_cli.engine.run_dir.run_state import read_state

    state, groups = read_state(folder)
    json.dumps([asdict(state), *(asdict(group) for group in groups)])
    assert state.step >= 0
    assert state.evaluation is None or state.evaluation["step"] == state.step


def run_log(folder: Path) -> None:
    from tests.support.run_logs import evaluation, steps, written

    folder.mkdir()
    written(folder, [*steps(12), evaluation(12, 0.5)])


def examine_log(folder: Path) -> None:
    from tests.support.run_logs import examine

    examine(folder)


def hosts(folder: Path) -> None:
    folder.mkdir()
    entries = [{"ssh": f"mac{n}", "ips": [f"10.0.0.{n}"], "rdma": [None, "rdma_en3"][::n]} for n in (1, -1)]
    document = {"backend": "jaccl", "envs": ["MLX_METAL_FAST_SYNCH=1"], "hosts": entries}
    (folder / "hosts.json").write_text(json.dumps(document))


def read_hosts_file(folder: Path) -> None:
    from grpo_cli.distributed.hosts import read_hosts

    read_hosts(folder / "hosts.json")


# --- nanochat -----------------------------------------------------------------------------------------


def meta(folder: Path) -> None:
    from tests.support.nanochat_checkpoints import write_checkpoint

    write_checkpoint(folder, "current")
    (folder / "meta.json").write_bytes(next(folder.glob("meta_*.json")).read_bytes())


def read_meta_file(folder: Path) -> None:
    from grpo_cli.convert.architecture import read_model_config
    from grpo_cli.convert.nanochat import read_meta

    read_model_config(read_meta(folder / "meta.json"), folder / "meta.json")


def fixture(name: str, folder: Path) -> None:
    folder.mkdir()
    shutil.copyfile(FIXTURES / name, folder / name)


def read_pt(name: str, folder: Path) -> Any:
    from tests.support.pt_reading import everything

    return everything(folder / name)


def read_tokenizer(folder: Path) -> None:
    from grpo_cli.models.nanochat_tokenizer import PROBE, read_encoding

    encoding = read_encoding(folder / "tokenizer.pkl")
    assert encoding.decode(encoding.encode_ordinary(PROBE)) == PROBE


def zip_record(content: bytes, chance: random.Random) -> bytes:
    """A .pt file whose index is mutated, with a checksum of what it has become."""
    import io

    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            is_index = entry.filename.endswith("data.pkl")
            new.writestr(entry.filename, mutated_bytes(data, chance) if is_index else data)
    return made.getvalue()


def read_index_as_it_is(folder: Path) -> None:
    from tests.support.pt_reading import everything

    everything(folder / "strided_shared.pt")  # its numbers are compared in convert/test_mutations.py


def toml(folder: Path) -> None:
    folder.mkdir()
    from grpo_cli.config.resolve import shipped_folder

    shutil.copyfile(shipped_folder() / "medium.toml", folder / "x.toml")


def inspect_toml(folder: Path) -> None:
    from grpo_cli.config.load import inspect_config

    inspect_config(str(folder / "x.toml"))


PT = ("archive_root.pt", "parameter_value.pt", "strided_shared.pt")
KINDS: dict[str, Kind] = {
    "config.json": Kind("config.json", model, load),
    "generation_config.json": Kind("generation_config.json", model, load),
    "tokenizer_config.json": Kind("tokenizer_config.json", model, load),
    "special_tokens_map.json": Kind("special_tokens_map.json", model, load),
    "tokenizer.json": Kind("tokenizer.json", model, load),
    "index.json": Kind("model.safetensors.index.json", shards, weights),
    "safetensors header": Kind("model.safetensors", model, weights, header_only),
    "adapter_config.json": Kind("adapter_config.json", adapters, load),
    "adapters header": Kind("adapters.safetensors", adapters, weights, header_only),
    "manifest.json": Kind("manifest.json", checkpoint, examine_manifest),
    "trainer_state.json": Kind("trainer_state.json", checkpoint, examine_state),
    "rollouts.json": Kind("rollouts.json", checkpoint, examine_state),
    "training_log.jsonl": Kind("training_log.jsonl", run_log, examine_log, mutated_lines),
    "hosts.json": Kind("hosts.json", hosts, read_hosts_file),
    "nanochat meta": Kind("meta.json", meta, read_meta_file),
    **{
        f"pt {name}": Kind(name, partial(fixture, name), partial(read_pt, name), mutated_bytes) for name in PT
    },
    "pt index": Kind(
        "strided_shared.pt", partial(fixture, "strided_shared.pt"), read_index_as_it_is, zip_record
    ),
    "tokenizer.pkl": Kind("tokenizer.pkl", partial(fixture, "tokenizer.pkl"), read_tokenizer, mutated_bytes),
    "config.toml": Kind("x.toml", toml, inspect_toml, mutated_bytes),
}


class Bench:
    """A kind's sound files in a folder, of which one is mutated again and again."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind, self.folder, self.path = kind, folder, folder / kind.file
        kind.prepare(folder)
        self.canary = folder / "canary.ran"
        (folder / f"{CANARY_MODULE}.py").write_text(f"open({str(self.canary)!r}, 'w')\nclass Canary: ...\n")
        self.sound = self.path.read_bytes()
        self.expected = kind.read(folder)

    def outcome(self, seed: int) -> tuple[str, str]:
        """("read" or "refused" or "traceback" or "wrong" or "ran", words) of one mutation."""
        self.path.unlink()
        self.path.write_bytes(self.kind.mutate(self.sound, random.Random(seed)))
        try:
            found = self.kind.read(self.folder)
        except GrpoError as error:
            result = ("refused", str(error))
        except BaseException as error:  # what any file makes of the program, PanicException too
            if isinstance(error, KeyboardInterrupt):
                raise
            result = ("traceback", f"{type(error).__name__}: {str(error)[:300]}")
        else:
            result = ("read", "") if found == self.expected else ("wrong", "other numbers without a word")
        if self.canary.exists():
            self.canary.unlink()
            return "ran", result[1]
        return result


__all__ = ["KINDS", "TINY", "Bench", "Kind"]
