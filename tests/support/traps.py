"""Folders as a stranger could send them: every field that can name code does, and texts steer terminals.

trap = Trap(folder, sentinel)       # a model's folder; whatever code of it runs writes `sentinel`
TRAPS["auto_map"](trap)
"""

import json
import os
import pickle
import py_compile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Every kind of control: OSC, CSI and DCS of 7 and of 8 bits, CR, backspace, directions, no width, separators.
STEERING = "\x1b]0;t\x07\x1b[2J\x1bPq\x1b\\\x9b31m\x9d0;t\x9c\x90q\r\b\x7f\u202e\u2066\u200b\u2028\u2029\x85"
CODE_CLASSES = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "AutoProcessor")
# What transformers has under these names runs a folder's code by itself, or is no tokenizer.
NO_TOKENIZERS = (
    "AutoModelForCausalLM",
    "AutoProcessor",
    "AutoConfig",
    "AutoTokenizer",
    "pipeline",
    "Trainer",
)


@dataclass(frozen=True)
class Trap:
    """A folder with a model, in which code lies ready that writes a file."""

    folder: Path
    sentinel: Path

    def __post_init__(self) -> None:
        source = (
            f"open({str(self.sentinel)!r}, 'a').write(__name__ + '\\n')\n"
            "class Evil:\n"
            "    from_pretrained = from_dict = from_config = classmethod(lambda cls, *a, **k: cls())\n"
            "Model = ModelArgs = EvilTokenizer = EvilConfig = Evil\n"
            "def f(completions, **columns):\n"
            "    return [1.0] * len(completions)\n"
        )
        for name in ("evil.py", "tokenization_evil.py", "modeling_evil.py", "e:v.py", "__init__.py"):
            (self.folder / name).write_text(source)
        py_compile.compile(str(self.folder / "evil.py"), str(self.folder / "evil.pyc"))
        (self.folder / "link").symlink_to("evil.py")
        (self.folder / "custom_generate").mkdir()
        (self.folder / "custom_generate" / "generate.py").write_text(source)

    def change(self, name: str, **fields: Any) -> None:
        """Give fields of a JSON file other values; the file need not be there."""
        path = self.folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(content | fields))


class Shell:
    """A pickle that runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def auto_map(name: str = "evil.Evil") -> dict[str, Any]:
    """Every class of transformers' that can be named, named."""
    return {key: [name, name] if key == "AutoTokenizer" else name for key in CODE_CLASSES}


def _configs(**fields: Any) -> Callable[[Trap], None]:
    def change(trap: Trap) -> None:
        trap.change("config.json", **fields)

    return change


def _tokenizers(**fields: Any) -> Callable[[Trap], None]:
    def change(trap: Trap) -> None:
        trap.change("tokenizer_config.json", **fields)

    return change


def _everywhere(trap: Trap) -> None:
    """All that a well-meaning folder may have, too: it must load, and nothing of it run."""
    trap.change("config.json", auto_map=auto_map(), custom_pipelines={"x": {"impl": "evil.Evil"}})
    trap.change("config.json", text_config={"auto_map": auto_map()}, trust_remote_code=True)
    trap.change("tokenizer_config.json", auto_map=auto_map(), trust_remote_code=True)
    trap.change("generation_config.json", auto_map=auto_map(), custom_generate="evil.py", eos_token_id=311)
    trap.change("special_tokens_map.json", auto_map="evil.Evil")
    trap.change("processor_config.json", auto_map=auto_map(), processor_class="Evil")


def _pickled(name: str) -> Callable[[Trap], None]:
    def write(trap: Trap) -> None:
        (trap.folder / name).write_bytes(pickle.dumps(Shell(f"echo {name} >> {trap.sentinel}"), protocol=4))

    return write


def _template(trap: Trap) -> None:
    command = f"echo template >> {trap.sentinel}"
    for start in (
        "cycler.__init__.__globals__.os",
        "self.__init__.__globals__['os']",
        "lipsum.__globals__.os",
    ):
        (trap.folder / "chat_template.jinja").write_text(f"{{{{ {start}.system({command!r}) }}}}")


def _own_class(trap: Trap) -> None:
    """The code that a folder of ours carries, exchanged."""
    (trap.folder / "nanochat_v2.py").write_text((trap.folder / "evil.py").read_text())
    trap.change("config.json", model_type="nanochat_v2", model_file="nanochat_v2.py")


def _absolute(trap: Trap) -> None:
    trap.change("config.json", model_file=str(trap.folder.resolve() / "evil.py"))


TRAPS: dict[str, Callable[[Trap], None]] = {
    "everywhere": _everywhere,
    "auto_map of config.json": _configs(auto_map=auto_map()),
    "auto_map to another repository": _configs(auto_map=auto_map("owner/name--evil.Evil")),
    "auto_map of an unknown type": _configs(auto_map=auto_map(), model_type="evil"),
    "auto_map of tokenizer_config.json": _tokenizers(auto_map=auto_map(), tokenizer_class="EvilTokenizer"),
    "auto_map as a list": _tokenizers(auto_map=["evil.EvilTokenizer", None], tokenizer_class="EvilTokenizer"),
    **{
        f"model_file {name}": _configs(model_file=name)
        for name in ("evil.py", "evil.pyc", "../m/evil.py", "link")
    },
    "model_file absolute": _absolute,
    "model_file of ours": _own_class,
    **{
        f"model_type {name}": _configs(model_type=name)
        for name in ("evil", "../evil", "..evil", "cache", "base", "/evil", ["llama"], {"a": 1}, 3)
    },
    "architectures": _configs(architectures=["evil.Evil"]),
    **{
        f"tokenizer_class {name}": _tokenizers(tokenizer_class=name) for name in (*NO_TOKENIZERS, "evil.Evil")
    },
    **{f"tokenizer_class {name} of config.json": _configs(tokenizer_class=name) for name in NO_TOKENIZERS},
    "tokenizer_class of no text": _tokenizers(tokenizer_class={"a": "evil"}),
    "chat_template_type": _tokenizers(chat_template_type="../../evil"),
    "tool_parser_type": _tokenizers(tool_parser_type="evil"),
    "chat_template.jinja": _template,
    "tokenizer.pkl": _pickled("tokenizer.pkl"),
    "pytorch_model.bin": _pickled("pytorch_model.bin"),
    "model_000001.pt": _pickled("model_000001.pt"),
}
REWARDS = ("evil.py:f", "./evil.py:f", "evil.pyc:f", "link:f", "e:v.py:f", "evil.py:Evil", "./x/../evil.py:f")
