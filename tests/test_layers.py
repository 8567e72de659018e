"""The layers of the package, by its imports: only downward, never in a circle, and light modules stay light.

The order, from the top: cli → report → doctor → the run and what evaluates → the rest of engine, convert →
environments → data, models → config → rewards → errors, types. Packages on one level do not import one
another.
"""

import ast
import functools
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The level of each package or module; the longest name that fits decides.
LEVELS = {
    "grpo_cli.__main__": 8,
    "grpo_cli.cli": 7,
    "grpo_cli.report": 6.5,
    "grpo_cli.doctor": 6,
    "grpo_cli.doctor.checks": 5.8,
    "grpo_cli.doctor.context": 5.6,
    "grpo_cli.doctor.read": 5.4,
    "grpo_cli.doctor.findings": 5.2,
    "grpo_cli.engine.setup": 5,
    "grpo_cli.engine.dry_run": 5,
    "grpo_cli.engine.resume": 5,
    "grpo_cli.engine.run_dir.resume_point": 5,
    "grpo_cli.engine.run": 5,
    "grpo_cli.engine.collect_rollouts": 5,
    "grpo_cli.engine.update_policy": 5,
    "grpo_cli.engine.entropy_filter": 5,
    "grpo_cli.engine.sync_reference": 5,
    "grpo_cli.engine.reporting": 5,
    "grpo_cli.engine.memory.check": 5,
    "grpo_cli.engine.host.relief": 5,
    "grpo_cli.engine.train": 5,
    "grpo_cli.engine.evaluation.evaluate": 5,
    "grpo_cli.engine.evaluation.scorecard": 5,
    "grpo_cli.models.tiny": 5,  # scripts that make the embedded model: the program imports none of them
    "grpo_cli.trackers": 4.5,
    "grpo_cli.engine": 4,
    "grpo_cli.convert": 4,
    "grpo_cli.environments": 3.5,
    "grpo_cli.data": 3,
    "grpo_cli.models": 3,
    "grpo_cli.config": 2,
    "grpo_cli.rewards": 1,
    "grpo_cli.device": 1.5,
    "grpo_cli.distributed": 1,
    "grpo_cli.distributed.facts": 3,  # with ring_test.py a program of its own, run on other machines
    "grpo_cli.distributed.ring_test": 3,
    "grpo_cli.trust": 1,
    "grpo_cli.foreign_text": 0,
    "grpo_cli.cpu": 2,
    "grpo_cli.cpu.elf": 0,
    "grpo_cli.cpu.block_sizes": 0,
    "grpo_cli.cpu.blas_libraries": 0,
    "grpo_cli.cpu.blas": 1,
    "grpo_cli.files": 0.5,  # below rewards, above the errors that it raises
    "grpo_cli.folders": 0.7,
    "grpo_cli.ended": 0.5,
    "grpo_cli.errors": 0,
    "grpo_cli.outlet": 0.5,
    "grpo_cli.supervise": 0,
    "grpo_cli.types": 0,
    "grpo_cli.uncollected": 0,
    "grpo_cli.words": 0,
    "grpo_cli.untrusted_json": 0.5,
    "grpo_cli.user_code": 0.8,
    "grpo_cli.user_error": 0.5,
    "grpo_cli.user_source": 0,
}
# Light when imported, so that `grpo --help` is quick; these may turn heavy inside a function.
LIGHT_TO_START = {
    "grpo_cli.__main__",
    "grpo_cli.cli",
    "grpo_cli.doctor",
    "grpo_cli.device",
    "grpo_cli.cpu.blas",
    "grpo_cli.cpu.blas_libraries",
    "grpo_cli.distributed",
    "grpo_cli.engine.run_dir.run_state",
}
LIGHT = {
    "grpo_cli.config",
    "grpo_cli.rewards",
    "grpo_cli.engine.events",
    "grpo_cli.engine.host.facts",
    "grpo_cli.engine.host.system",
    "grpo_cli.engine.failures",
    "grpo_cli.engine.run_dir.incidents",
    "grpo_cli.engine.run_dir.machines",
    "grpo_cli.engine.memory.estimate",
    "grpo_cli.engine.memory.state_layers",
    "grpo_cli.engine.run_dir.ending",
    "grpo_cli.engine.run_dir.lock",
    "grpo_cli.engine.run_dir.log",
    "grpo_cli.engine.run_dir.manifest",
    "grpo_cli.engine.run_dir.names",
    "grpo_cli.engine.run_dir.removal",
    "grpo_cli.engine.memory.verdict",
    "grpo_cli.engine.guards.nothing_learned",
    "grpo_cli.convert.options",
    "grpo_cli.convert.targets",
    "grpo_cli.distributed.hosts",
    "grpo_cli.cpu.elf",
    "grpo_cli.cpu.block_sizes",
    "grpo_cli.foreign_text",
    "grpo_cli.trackers.names",
    "grpo_cli.trust",
    "grpo_cli.ended",
    "grpo_cli.errors",
    "grpo_cli.outlet",
    "grpo_cli.supervise",
    "grpo_cli.files",
    "grpo_cli.folders",
    "grpo_cli.models.adapter_config",
    "grpo_cli.models.peft_config",
    "grpo_cli.models.model_files",
    "grpo_cli.models.safetensors_header",
    "grpo_cli.types",
    "grpo_cli.uncollected",
    "grpo_cli.untrusted_json",
    "grpo_cli.user_code",
    "grpo_cli.user_error",
    "grpo_cli.user_source",
    "grpo_cli.words",
}
OPTIONAL = {"math_verify"}  # an extra of its own: imported in a function, when it is first asked for
LIGHT_PACKAGES = {*sys.stdlib_module_names, "typer", "yaml", "rich", "pydantic", "tomli_w"}


@dataclass(frozen=True)
class Import:
    """One imported module; `at_start`: when its importer is imported, not later in a function."""

    module: str
    line: int
    at_start: bool


@functools.cache
def imports(source: str) -> list[Import]:
    """The imports of a module's source, but for those that only a type checker makes."""
    return list(_walk(ast.parse(source), at_start=True))


def _walk(node: ast.AST, at_start: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, at_start) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: relative imports hide their layer"
            yield from (Import(_module(child, alias), child.lineno, at_start) for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        else:
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, at_start and not later)


def _module(statement: ast.ImportFrom, alias: ast.alias) -> str:
    """The module that `from package import name` loads: `package.name` where that is one of ours."""
    name = f"{statement.module}.{alias.name}"
    path = ROOT / name.replace(".", "/")
    ours = path.with_suffix(".py").exists() or path.is_dir()
    return name if name.startswith("grpo_cli.") and ours else str(statement.module)


def entry(module: str, names: set[str]) -> str:
    """The longest of `names` that is the module or a package around it; empty if none is."""
    return max((n for n in names if f"{module}.".startswith(f"{n}.")), key=len, default="")


def violations(module: str, source: str) -> list[str]:
    """What the imports of `module` break, one line each."""
    found = []
    for imported in imports(source):
        broken = _breaks_layers(module, imported.module) or _breaks_lightness(module, imported)
        if broken:
            found.append(f"{module}:{imported.line} imports {imported.module}: {broken}")
    return found


def _breaks_layers(module: str, imported: str) -> str:
    if imported == "grpo_cli" or not imported.startswith("grpo_cli."):
        return ""
    source, target = entry(module, {*LEVELS}), entry(imported, {*LEVELS})
    if not source or not target:
        return "give the module a level in LEVELS"
    same_package = source.split(".")[1] == target.split(".")[1]
    if LEVELS[target] < LEVELS[source] or (LEVELS[target] == LEVELS[source] and same_package):
        return ""
    return f"level {LEVELS[source]} may not import level {LEVELS[target]}"


def _breaks_lightness(module: str, imported: Import) -> str:
    always, at_start = entry(module, LIGHT), entry(module, LIGHT_TO_START)
    if not always and not (at_start and imported.at_start):
        return ""
    if imported.module.startswith("grpo_cli."):
        light = entry(imported.module, LIGHT | LIGHT_TO_START)
        return "" if light else "a light module imports a heavy one"
    top = imported.module.partition(".")[0]
    if top in OPTIONAL and not imported.at_start:
        return ""
    return "" if top in LIGHT_PACKAGES | {"grpo_cli"} else "a light module imports a heavy package"


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of modules that reach one another by their imports, those inside functions included."""
    reached = {module: _reached(module, graph) for module in graph}
    groups = {frozenset(m for m in reached[module] if module in reached[m]) for module in graph}
    return sorted(sorted(group) for group in groups if group)


def _reached(module: str, graph: Mapping[str, set[str]]) -> set[str]:
    """The modules that `module` imports, and what those import in turn."""
    seen: set[str] = set()
    ahead = [*graph[module]]
    while ahead:
        if (name := ahead.pop()) not in seen:
            seen.add(name)
            ahead += graph[name]
    return seen


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "grpo_cli").rglob("*.py"))
}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downward_and_light_stays_light(module: str) -> None:
    assert violations(module, MODULES[module].read_text(encoding="utf-8")) == []


def test_no_modules_import_one_another_in_a_circle() -> None:
    graph = {
        module: {imported.module for imported in imports(path.read_text(encoding="utf-8"))} & {*MODULES}
        for module, path in MODULES.items()
    }
    assert circles(graph) == []


# All that a run imports before its first step and needs: `import mlx_lm` itself brings most of it.
STARTED = {
    *("huggingface_hub", "jinja2", "mlx", "mlx_lm", "numpy", "tiktoken", "tokenizers", "transformers"),
    *("pydantic", "rich", "tomli_w", "typer", "yaml"),
}


@pytest.mark.parametrize(
    "roots",
    [
        ("grpo_cli.cli.main", "grpo_cli.cli.live", "grpo_cli.engine.train"),
        ("grpo_cli.cli.main", "grpo_cli.engine.resume"),
        ("grpo_cli.cli.main", "grpo_cli.engine.evaluation.evaluate"),
    ],
)
def test_a_run_imports_nothing_at_its_start_that_it_does_not_use(roots: tuple[str, ...]) -> None:
    graph = {
        module: {one.module for one in imports(path.read_text(encoding="utf-8")) if one.at_start}
        for module, path in MODULES.items()
    }
    graph |= {name: set() for found in list(graph.values()) for name in found if name not in graph}
    found = set().union(*(_reached(root, graph) for root in roots))
    others = {name.partition(".")[0] for name in found} - {*sys.stdlib_module_names, "grpo_cli"}
    assert others <= STARTED  # datasets, pandas and pyarrow take seconds
    assert not {entry(name, {"grpo_cli.report", "grpo_cli.doctor.checks"}) for name in found} - {""}


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        ({"a": {"b", "c"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}}, [["a", "b", "c"]]),
        ({"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"c"}}, [["a", "b"], ["c", "d"]]),
        ({"a": {"a"}}, [["a"]]),
        ({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": {"b"}}, [["b", "d"]]),
    ],
)
def test_circles_are_found(graph: dict[str, set[str]], found: list[list[str]]) -> None:
    assert circles(graph) == found


@pytest.mark.parametrize("module", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_package_files_are_empty(module: str) -> None:
    assert MODULES[module].read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("module", [name for name in MODULES if name != "grpo_cli"])
def test_every_module_has_a_level(module: str) -> None:
    is_package = MODULES[module].name == "__init__.py"
    assert is_package or entry(module, {*LEVELS})


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("grpo_cli.engine")])
def test_the_engine_reads_no_toml_and_never_prints_or_exits(module: str) -> None:
    source = MODULES[module].read_text(encoding="utf-8")
    assert "tomllib" not in {imported.module for imported in imports(source)}
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = {ast.unparse(function) for function in calls}
    assert not named & {"print", "exit", "sys.exit", "os._exit", "input"}


@pytest.mark.parametrize(
    ("module", "source", "broken"),
    [
        (
            "grpo_cli.engine.x",
            "from grpo_cli.cli.main import app",
            "level 4 may not import level 7",
        ),
        ("grpo_cli.engine.x", "import grpo_cli.engine.train", "level 4 may not import level 5"),
        (
            "grpo_cli.engine.x",
            "from grpo_cli.engine import train",
            "level 4 may not import level 5",
        ),
        ("grpo_cli.engine.x", "def f():\n  import grpo_cli.cli.main", "level 4 may not import level 7"),
        ("grpo_cli.data.hub", "from grpo_cli.models.load import x", "level 3 may not import level 3"),
        ("grpo_cli.rewards.x", "from grpo_cli.config.schema import Config", "level 1 may not import level 2"),
        ("grpo_cli.errors", "from grpo_cli.types import Batch", "level 0 may not import level 0"),
        ("grpo_cli.new", "from grpo_cli.types import Batch", "give the module a level in LEVELS"),
        ("grpo_cli.cli.train", "import mlx.core as mx", "a light module imports a heavy package"),
        (
            "grpo_cli.cli.train",
            "try:\n  import numpy\nexcept E: ...",
            "a light module imports a heavy package",
        ),
        ("grpo_cli.cli.x", "from grpo_cli.engine.train import t", "a light module imports a heavy one"),
        ("grpo_cli.config.x", "def f():\n  import numpy", "a light module imports a heavy package"),
        ("grpo_cli.engine.events", "from mlx_lm import load", "a light module imports a heavy package"),
    ],
)
def test_the_checker_catches(module: str, source: str, broken: str) -> None:
    (found,) = violations(module, source)
    assert found.endswith(f": {broken}")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("grpo_cli.cli.train", "def f():\n  import mlx.core\n  from grpo_cli.engine.train import train_step"),
        ("grpo_cli.cli.train", "from grpo_cli.engine.events import RunStarted\nimport rich.console"),
        ("grpo_cli.cli.x", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import mlx.core"),
        (
            "grpo_cli.engine.train",
            "from grpo_cli.engine.evaluation.evaluate import x\nimport mlx.core",
        ),
        ("grpo_cli.models.tiny.build", "from grpo_cli.models.load import x\nimport numpy"),
        ("grpo_cli.models.tiny.build", "from grpo_cli.data.arithmetic import x"),
    ],
)
def test_the_checker_allows(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_levels_name_what_exists() -> None:
    missing = [name for name in LEVELS if importlib.util.find_spec(name) is None]
    assert missing == []
