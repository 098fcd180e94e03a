"""The picture: `python plot.py results.json picture.png`, in the environment that has matplotlib.

Reads nothing but the JSON, so it can be drawn again at any time.
"""

import json
import sys
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

#: As in results.py: a share of errors above which a comparison means nothing.
ERRORS = 0.01

#: Part, title, metric, and the beginning and end of the names of its cases.
BARS = (
    ("a", "A call to MLflow, 1 connection: ms (median)", "p50_ms", "", " × 1"),
    ("a", "8 connections: requests per second", "rps", "", " × 8"),
    ("a", "The SDK's training loop: seconds", "seconds", "SDK", ""),
    ("b", "CPU of one small request in the proxy: µs, logarithmic", "cpu_us", "16", ""),
    ("c", "Artifacts through MLflow: MB/s", "mb_per_s", "MLflow: ", ""),
)

#: Case, metric and legend of each curve of part d.
CURVES = (
    ("streams", "cpu_ms_each", "CPU of a stream, by open streams"),
    ("known keys", "cpu_us", "CPU of a request, by known keys"),
    ("instances", "rps", "requests/s, by instances"),
)

Cases = dict[str, dict[str, dict[str, Any]]]


def main(data: Path, picture: Path) -> None:
    """One panel for each thing that is easier to see than to read."""
    parts = json.loads(data.read_text("utf-8"))["parts"]
    figure, grid = plt.subplots(3, 2, figsize=(12.4, 10.5))
    for axes, (part, title, metric, start, end) in zip(grid.flat, BARS, strict=False):
        axes.set_title(title)
        bars(axes, parts.get(part, {}).get("cases", {}), metric, start, end)
    growth(grid.flat[-1], parts.get("d", {}).get("cases", {}))
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
        axes.tick_params(colors=GREY, labelsize=7, length=0)
        axes.title.set(fontsize=10, fontweight="bold", horizontalalignment="left", x=0.0)
    figure.tight_layout(h_pad=2.2, w_pad=2.5)
    figure.savefig(picture, dpi=110, metadata={"Software": None})


def bars(axes: Axes, cases: Cases, metric: str, start: str, end: str) -> None:
    """Bars side by side: a group a case, a colour a contestant."""
    groups = {name: c for name, c in cases.items() if name.startswith(start) and name.endswith(end)}
    axes.set_visible(bool(groups))
    names = [name for name in COLOURS if any(name in case for case in groups.values())]
    for number, name in enumerate(names):
        places = [group + number / (len(names) + 1) for group in range(len(groups))]
        heights = [median(case.get(name, {}), metric) for case in groups.values()]
        drawn = axes.bar(places, heights, 0.9 / (len(names) + 1), color=COLOURS[name], label=name)
        if name in LABELLED or len(groups) == 1:
            texts = [f"{height:,.0f}" if height >= 10 else f"{height:.1f}" for height in heights]
            axes.bar_label(drawn, texts, fontsize=7, color=GREY)
    labels = [name.removeprefix("MLflow: ").removesuffix(end) for name in groups]
    labels = [label.replace("× ", "×\n").replace("MiB ", "MiB\n") for label in labels]
    axes.set_xticks([group + 0.4 for group in range(len(groups))], labels)
    if metric == "cpu_us":
        axes.set_yscale("log")
    if groups:
        axes.legend(fontsize=7, frameon=False, labelcolor=GREY, ncols=2)


def median(measured: dict[str, Any], metric: str) -> float:
    """0, which draws nothing, where nothing was measured or too many responses were errors."""
    if measured.get("failed", {"median": 0})["median"] > ERRORS:
        return 0.0
    return float(measured.get(metric, {"median": 0})["median"])


def growth(axes: Axes, cases: Cases) -> None:
    """Part d: each curve beside its own beginning."""
    axes.set_title("Growth: each curve ÷ its first value")
    for case, metric, text in CURVES:
        counts = sorted((int(name.replace(",", "")), name) for name in cases.get(case, {}))
        values = [cases[case][name][metric]["median"] for _, name in counts]
        if values and values[0]:
            heights = [value / values[0] for value in values]
            axes.plot([count for count, _ in counts], heights, marker="o", markersize=4, label=text)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_visible(bool(cases))
    if cases:
        axes.legend(fontsize=7, frameon=False, labelcolor=GREY)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
