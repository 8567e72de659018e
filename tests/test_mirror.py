"""The tests mirror the package file for file: tests/PACKAGE/test_X.py tests grpo_cli/PACKAGE/X.py.

KINDS names the files whose subject runs through many modules, each with its reason. What several test files
use stands in tests/support: no test file imports another one.
"""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent

# Files, or a whole folder, that test no single module.
KINDS = {
    "test_layers.py": "the imports of every module",
    "test_mirror.py": "the tests themselves",
    "test_hostile_files.py": "damaged content in every kind of file that the program reads",
    "bench/test_bench.py": "all benchmarks",
    "cli/test_printed_commands.py": "every command that the sources print",
    "cli/test_run_commands.py": "train, eval and generate one after the other, as a person runs them",
    "cli/test_traps.py": "a stranger's folder in every command",
    "cli/test_unheard.py": "whole runs whose output is closed or paused",
    "config/test_cures.py": "every cure that a configuration's problems print",
    "config/test_mutations.py": "damaged configurations in the whole of config",
    "config/test_shipped.py": "the files of configs/",
    "convert/test_genuine.py": "nanochat's own checkpoints, there and back and in training",
    "convert/test_hostile_torch_files.py": "a stranger's .pt file in all its readers",
    "convert/test_memory.py": "peak memory of a whole conversion",
    "convert/test_mutations.py": "random damage to every source of a conversion",
    "convert/test_to_hf_with_torch.py": "whole folders in transformers",
    "convert/test_with_torch.py": "reader and writer of .pt files against torch",
    "cures": "the cures of every error, by the subject of the error",
    "distributed/test_ranks.py": "whole runs on several ranks",
    "distributed/test_rank_options.py": "a whole run on two ranks with the options that act on all of them",
    "doctor/checks/model/test_same_facts.py": "the doctor and the commands on the same damage",
    "doctor/checks/run/test_healthy_logs.py": "every check of a run",
    "doctor/checks/run/test_real_runs.py": "the doctor on real runs",
    "doctor/cures": "the cures of every finding, by its subject",
    "doctor/test_trl_defaults.py": "one chapter of the guide",
    "engine/test_device_faults.py": "whole runs on a device that fails",
    "engine/test_environments.py": "whole runs with environments",
    "engine/test_model_kinds.py": "whole runs of models with other caches",
    "engine/update/test_loss_mask.py": "masked tokens in batches, losses, metrics and checkpoints",
    "environments/test_taught_calculator.py": "a model trained on the calculator, with and without it",
    "models/test_all_families.py": "every type of model of mlx-lm, in what a run does with it",
    "models/test_families.py": "the most used types of model, in what a run does with them",
    "engine/test_warm_start.py": "whole runs that continue adapters",
    "models/test_peft_with_torch.py": "adapters of peft itself, in and out",
    "models/test_nanochat_january.py": "nanochat_v2.py as the conversion sets it up, against a plain loop",
    "rewards/test_found_in_the_wild.py": "rewards as people write them",
    "rewards/test_nanochat_gsm8k.py": "one reward of builtin.py on every genuine row",
    "rewards/test_trl_scripts.py": "reward files in the shapes of public scripts",
    "rewards/test_right_answers.py": "a table of answers for every built-in reward",
}


def module_of(test: Path) -> Path:
    """The module or package that a test file stands for, below ROOT; tests/bench tests the benchmarks."""
    folder = test.parent.relative_to(TESTS)
    package = TESTS if folder.parts[:1] == ("bench",) else ROOT / "grpo_cli"
    return package / folder / test.stem.removeprefix("test_")


def is_module(path: Path) -> bool:
    return path.with_suffix(".py").exists()


def is_kind(test: Path) -> bool:
    name = test.relative_to(TESTS)
    return any(path.as_posix() in KINDS for path in (name, *name.parents))


def imported_tests(source: str) -> set[str]:
    """The test modules that a source imports, in functions and in programs that it holds as texts, too."""
    found = set(re.findall(r"^ *(?:from|import) (tests[\w.]+)", source, re.MULTILINE))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if is_test_module(name)}


def is_test_module(name: str) -> bool:
    *packages, last = name.split(".")
    return packages[:1] == ["tests"] and last.startswith("test_")


SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted(TESTS.rglob("*.py"))}
TEST_FILES = [path for path in SOURCES if path.name.startswith("test_")]


def named(paths: Iterable[Path]) -> list[str]:
    return [path.relative_to(TESTS).as_posix() for path in paths]


def test_every_test_file_has_its_module() -> None:
    """A package counts, too: models/tiny."""
    modules = {path: module_of(path) for path in TEST_FILES if not is_kind(path)}
    without = [path for path, module in modules.items() if not (is_module(module) or module.is_dir())]
    assert named(without) == []


def test_kinds_exist_and_stand_for_no_module() -> None:
    assert [kind for kind in KINDS if not (TESTS / kind).exists()] == []
    assert [kind for kind in KINDS if is_module(module_of(TESTS / kind))] == []


def test_no_file_imports_a_test_file() -> None:
    assert named(path for path, source in SOURCES.items() if imported_tests(source)) == []


def test_helpers_stand_in_support() -> None:
    own = ("__init__.py", "conftest.py")
    others = [path for path in SOURCES if path not in TEST_FILES and path.name not in own]
    assert [name for name in named(others) if not name.startswith(("support/", "bench/"))] == []


def test_every_test_file_says_first_what_it_tests() -> None:
    assert named(path for path in TEST_FILES if not SOURCES[path].startswith('"""')) == []


def test_no_test_file_has_more_than_400_lines() -> None:
    assert named(path for path in TEST_FILES if SOURCES[path].count("\n") > 400) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from tests.engine.test_train import small", {"tests.engine.test_train"}),
        ("def f():\n  from tests.engine import test_train", {"tests.engine.test_train"}),
        ("import tests.test_files as files", {"tests.test_files"}),
        ('CODE = """\nfrom tests.rewards.test_score import group\n"""', {"tests.rewards.test_score"}),
        ("from tests.support.small_runs import small\nfrom grpo_cli.x import test_y", set()),
    ],
)
def test_the_checker_finds_imports_of_test_files(source: str, found: set[str]) -> None:
    assert imported_tests(source) == found
