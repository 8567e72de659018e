"""An evaluation, or two models on the same items, as one HTML page: `grpo eval --report FILE.html`.

    text = evaluation_page(document, {"tiny": [lines of grpo eval --output]})

`document` is that of `grpo eval --json`. With two models, items that only one of them solves can be chosen.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_cli.report.compare import percent
from grpo_cli.report.completions import completions_of, packed
from grpo_cli.report.marks import label
from grpo_cli.report.page import LARGEST, REST, render
from grpo_cli.report.read import RunRecord
from grpo_cli.report.sentence import Sentence, Tone, seconds_in_words
from grpo_cli.words import plural

TONES: dict[str, Tone] = {"better": "good", "worse": "bad"}


def evaluation_page(document: Mapping[str, Any], lines: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """The page's HTML. `lines`: each model's completions, one object each with its `item`."""
    cards = [document, *([document["compared"]] if "compared" in document else [])]
    keys = ("model", "compared_model")[: len(cards)]
    names = [label(document[key]) for key in keys]
    completions = completions_of([record_of(name, found) for name, found in lines.items()], LARGEST - REST)
    data = {
        "kind": "Model",
        "runs": names,
        "charts": [],
        "marks": [],
        "kinds": {},
        "alphabet": "",
        "completions": {"prompts": completions["prompts"], **packed(completions["rows"])},
        "refresh": 0,
    }
    return render(
        "evaluation.html",
        data=data,
        title=" against ".join(names),
        kind="Model",
        names=names,
        has_groups=False,
        sentences=sentences_of(document, names),
        scores=score_rows(cards),
        about=about(document),
        completions={"shown": len(completions["rows"]), "all": completions["all"]},
    )


def record_of(name: str, lines: Sequence[dict[str, Any]]) -> RunRecord:
    """A model's completions as a record, thinned by items instead of steps."""
    numbered = [{**line, "step": line["item"], "stop_reason": str(line["stop_reason"])} for line in lines]
    return RunRecord(folder=Path(), name=name, log=[], steps=[], evaluations=[], completions=numbered)


def sentences_of(document: Mapping[str, Any], names: Sequence[str]) -> list[Sentence]:
    """The accuracy with its interval, and the paired comparison if there is one."""
    low, high = (100 * end for end in document["accuracy_interval"])
    first = (
        f"{names[0]} solves {percent(document['accuracy'])} of {plural(document['samples'], 'problem')} "
        f"(95 % interval {low:.0f}–{high:.0f})."
    )
    if "comparison" not in document:
        return [Sentence(first, "plain")]
    found = document["comparison"]
    points, (low, high) = 100 * found["accuracy_difference"], (100 * end for end in found["interval"])
    chance = "p < 0.001" if found["p"] < 0.001 else f"p = {found['p']:.3f}"
    second = (
        f"{names[0]} against {names[1]}: {found['verdict']}, {points:+.1f} points (95 %: {low:+.1f} to "
        f"{high:+.1f}; {chance}). Only the first solves {plural(found['only_model_right'], 'problem')}, "
        f"only the second {found['only_compared_right']}."
    )
    return [Sentence(first, "plain"), Sentence(second, TONES.get(found["verdict"], "plain"))]


def score_rows(cards: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table of scores, a value for each model."""
    rows = {
        "accuracy": [
            f"{percent(card['accuracy'])} ({card['correct']} of {card['completions']})" for card in cards
        ]
    }
    for k in cards[0]["pass_at_k"]:
        if k != "1":
            rows[f"pass@{k}"] = [percent(card["pass_at_k"].get(k)) for card in cards]
    for name in cards[0]["rewards"]:
        rows[f"reward {label(name)}"] = [reward_mean(card, name) for card in cards]
    rows |= {
        "format": [percent(card["format"]) for card in cards],
        "mean length": [f"{card['length_mean']:.1f} tokens" for card in cards],
        "cut off": [percent(card["truncated_fraction"]) for card in cards],
        "time": [seconds_in_words(card["seconds"]) for card in cards],
    }
    return [{"name": name, "values": values} for name, values in rows.items()]


def reward_mean(card: Mapping[str, Any], name: str) -> str:
    """A reward's mean; a dash if it applied to no completion."""
    mean = card["rewards"].get(name, {}).get("mean")
    return "–" if mean is None else f"{mean:.3f}"


def about(document: Mapping[str, Any]) -> str:
    """The data and the sampling of the evaluation."""
    temperature = document["temperature"]
    how = "greedy" if temperature == 0 else f"temperature {temperature:g}"
    each = plural(document["num_generations"], "completion")
    return f"Data: {label(document['dataset'])}, split {label(document['split'])}; {each} per problem, {how}."
