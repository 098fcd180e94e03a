"""The picture: `python plot.py results.json picture.png`, in the environment that has matplotlib.

Reads nothing but the JSON, so it can be drawn again at any time.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLOURS = {
    "direct": "#8a8f98",
    "this proxy": "#0b6e4f",
    "nginx": "#c9a227",
    "FastAPI, pooled": "#3d7ea6",
    "FastAPI, per request": "#9db4c0",
    "basic-auth": "#b5654a",
}
LABELLED = ("direct", "this proxy")
GREY = "#5b6068"

#: As in results.py: a share of errors from which a comparison means nothing.
ERRORS = 0.01

CALLS = ("experiments/search", "runs/log-metric", "runs/log-batch", "runs/search")

#: Case, metric and legend of each curve.
CURVES = (
    ("streams", "cpu_ms_each", "CPU of a stream, by open streams"),
    ("known keys", "cpu_us", "CPU of a request, by known keys"),
    ("instances", "rps", "requests/s, by instances"),
)

Cases = dict[str, dict[str, dict[str, Any]]]


def main(data: Path, picture: Path) -> None:
    """One panel for each thing that is easier to see than to read."""
    parts = json.loads(data.read_text("utf-8"))["parts"]
    wanted = [(part, title, draw) for part, title, draw in PANELS if part in parts]
    if not wanted:
        return
    columns = min(2, len(wanted))
    rows = -(-len(wanted) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(6.2 * columns, 3.5 * rows), squeeze=False)
    for axes in grid.flat[len(wanted) :]:
        axes.set_visible(False)
    for axes, (part, title, draw) in zip(grid.flat, wanted, strict=False):
        draw(axes, parts[part]["cases"])
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
        axes.tick_params(colors=GREY, labelsize=8, length=0)
        axes.title.set(fontsize=10, fontweight="bold", horizontalalignment="left", x=0.0)
    figure.tight_layout(h_pad=2.2, w_pad=2.5)
    figure.savefig(picture, dpi=110, metadata={"Software": None})


def median(cases: Cases, case: str, name: str, metric: str) -> float:
    """What was measured; 0, which draws nothing, where there is none or errors were counted."""
    measured = cases.get(case, {}).get(name, {})
    if measured.get("failed", {}).get("median", 0.0) > ERRORS:
        return 0.0
    return float(measured.get(metric, {}).get("median", 0.0))


def calls(axes: Axes, cases: Cases, connections: int, metric: str) -> None:
    """Part a: a group of bars for each call."""
    groups = {f"{name} × {connections}": name.replace("/", "/\n") for name in CALLS}
    grouped(axes, cases, groups, metric)
    if metric == "p50_ms":  # basic-auth would make the others flat
        highest = max(median(cases, case, "direct", metric) for case in groups)
        axes.set_ylim(0, 2.2 * highest or 1)


def artifacts(axes: Axes, cases: Cases) -> None:
    """Part c: a group of bars for each transfer through MLflow."""
    names = {case: case.removeprefix("MLflow: ") for case in cases if case.startswith("MLflow: ")}
    for case, name in names.items():
        short = name.replace("1,024 MiB", "1 GiB")
        names[case] = short.replace("× ", "×\n").replace("B ", "B\n")
    grouped(axes, cases, names, "mb_per_s")
    axes.tick_params(axis="x", labelsize=7)


def grouped(axes: Axes, cases: Cases, groups: dict[str, str], metric: str) -> None:
    """Bars side by side: a group a case (case → its label), a colour a contestant."""
    names = [name for name in COLOURS if any(name in cases.get(case, {}) for case in groups)]
    width = 0.86 / max(1, len(names))
    for number, name in enumerate(names):
        places = [group + number * width for group in range(len(groups))]
        heights = [median(cases, case, name, metric) for case in groups]
        bars = axes.bar(places, heights, width * 0.92, color=COLOURS[name], label=name)
        if name in LABELLED:
            texts = [f"{height:,.0f}" if height >= 10 else f"{height:.1f}" for height in heights]
            axes.bar_label(bars, texts, fontsize=7, color=GREY)
    axes.set_xticks([group + 0.43 - width / 2 for group in range(len(groups))], groups.values())
    axes.legend(fontsize=7, frameon=False, labelcolor=GREY, ncols=2)


def across(axes: Axes, cases: Cases, case: str, metric: str, text: str) -> None:
    """Lying bars with their numbers, a contestant each."""
    values = {name: median(cases, case, name, metric) for name in reversed(COLOURS)}
    known = {name: value for name, value in values.items() if value}
    colours = [COLOURS[name] for name in known]
    bars = axes.barh(list(known), list(known.values()), color=colours)
    axes.bar_label(bars, [text.format(value) for value in known.values()], fontsize=8, color=GREY)
    axes.margins(x=0.18)


def cost(axes: Axes, cases: Cases) -> None:
    """Part b, on a logarithmic axis: a factor of a thousand lies between."""
    axes.set_xscale("log")
    across(axes, cases, "16 connections", "cpu_us", " {:,.0f} µs")


def growth(axes: Axes, cases: Cases) -> None:
    """Part d: each curve beside its own beginning."""
    for case, metric, text in CURVES:
        counts = sorted((int(name.replace(",", "")), name) for name in cases.get(case, {}))
        values = [median(cases, case, name, metric) for _, name in counts]
        if values and values[0]:
            heights = [value / values[0] for value in values]
            axes.plot([count for count, _ in counts], heights, marker="o", markersize=4, label=text)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, frameon=False, labelcolor=GREY)


times = partial(calls, connections=1, metric="p50_ms")
rates = partial(calls, connections=8, metric="rps")
loop = partial(across, case="SDK loop", metric="seconds", text=" {:.1f} s")

#: Part, title, and what draws the panel.
PANELS = (
    ("a", "A call to MLflow, 1 connection: ms (median)", times),
    ("a", "8 connections: requests per second", rates),
    ("a", "The SDK's training loop: seconds", loop),
    ("b", "CPU of one small request in the proxy: µs, logarithmic", cost),
    ("c", "Artifacts through MLflow: MB/s", artifacts),
    ("d", "Growth: each curve ÷ its first value", growth),
)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
