"""The class of a model by its model_type, and types without one on this machine."""

import sys
from pathlib import Path

import pytest
from mlx_lm.models import llama

from grpo_cli.errors import ModelError
from grpo_cli.models import nanochat_v2
from grpo_cli.models.classes import UnknownKind, model_classes
from grpo_cli.models.load import load_model_folder
from tests.support.doctor_findings import at, tiny_copy
from tests.support.model_damage import edit_json

NEEDED = "mlx-lm cannot import its class of the model type olmo: To run olmo install ai2-olmo"


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """mlx-lm's olmo ends the process if this package is missing."""
    monkeypatch.setitem(sys.modules, "hf_olmo", None)
    monkeypatch.delitem(sys.modules, "mlx_lm.models.olmo", raising=False)


def test_classes_are_ours_mlx_lms_or_none() -> None:
    assert model_classes({"model_type": "llama"}) == (llama.Model, llama.ModelArgs)
    assert model_classes({"model_type": "nanochat_v2"}) == (nanochat_v2.Model, nanochat_v2.ModelArgs)
    for name in ("no_such_kind", "cache", "os", 5):
        with pytest.raises(UnknownKind, match=f"^Model type {name} not supported"):
            model_classes({"model_type": name})


@pytest.mark.usefixtures("without_package")
def test_a_class_that_needs_a_package_is_an_error_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_copy(tmp_path / "olmo")
    edit_json(folder / "config.json", model_type="olmo")
    with pytest.raises(ModelError) as error:
        load_model_folder(folder)
    assert error.value.message.startswith(NEEDED)
    assert (error.value.trouble, error.value.hint[:19]) == ("mlx-lm", "install the package")
    assert capsys.readouterr().out == ""  # data goes to stdout


@pytest.mark.usefixtures("without_package")
def test_the_doctor_says_so_and_does_not_end(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "olmo")
    edit_json(folder / "config.json", model_type="olmo")
    finding = at(folder, "model-weights")
    assert finding.seen.startswith(NEEDED)
    assert finding.cure.startswith("install the package that it names")
