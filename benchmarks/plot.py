"""The picture: `python plot.py results.json picture.png`, in the environment that has matplotlib.

Reads nothing but the JSON, so it can be drawn again at any time.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

OURS = "this proxy"
COLOURS = {
    "direct": "#8a8f98",
    OURS: "#0b6e4f",
    "nginx": "#c9a227",
    "FastAPI, pooled": "#3d7ea6",
    "FastAPI, per request": "#9db4c0",
    "basic-auth": "#b5654a",
}
GREY = "#5b6068"

#: As in results.py: a share of errors from which a comparison means nothing.
ERRORS = 0.01

Cases = dict[str, dict[str, dict[str, Any]]]


def main(data: Path, picture: Path) -> None:
    """One panel for each thing that people would rather look at."""
    parts = json.loads(data.read_text(encoding="utf-8"))["parts"]
    wanted = [panel for name, panels in PANELS.items() if name in parts for panel in panels]
    if not wanted:
        return
    columns = min(2, len(wanted))
    rows = -(-len(wanted) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(6.2 * columns, 3.5 * rows), squeeze=False)
    for axes, (part, draw) in zip(grid.flat, wanted, strict=False):
        draw(axes, parts[part]["cases"])
        tidy(axes)
    for axes in list(grid.flat)[len(wanted) :]:
        axes.set_visible(False)
    figure.tight_layout(h_pad=2.2, w_pad=2.5)
    figure.savefig(picture, dpi=110, metadata={"Software": None})


def tidy(axes: Axes) -> None:
    """Nothing that does not tell something."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelsize=8, length=0)
    axes.title.set(fontsize=10, fontweight="bold", horizontalalignment="left", x=0.0)


def median(cases: Cases, case: str, name: str, metric: str) -> float:
    """What was measured; 0, which draws nothing, where it was not, or where errors answered."""
    measured = cases.get(case, {}).get(name, {})
    if measured.get("failed", {}).get("median", 0.0) > ERRORS:
        return 0.0
    return float(measured.get(metric, {}).get("median", 0.0))


def grouped(axes: Axes, cases: Cases, groups: dict[str, str], metric: str) -> None:
    """Bars side by side: a group a case, a colour a contestant."""
    names = [name for name in COLOURS if any(name in cases.get(case, {}) for case in groups)]
    width = 0.86 / max(1, len(names))
    for number, name in enumerate(names):
        places = [group + number * width for group in range(len(groups))]
        heights = [median(cases, case, name, metric) for case in groups]
        axes.bar(places, heights, width * 0.92, color=COLOURS[name], label=name)
        if name in (OURS, "direct"):
            label(axes, places, heights)
    axes.set_xticks([group + 0.43 - width / 2 for group in range(len(groups))], groups.values())
    axes.legend(fontsize=7, frameon=False, labelcolor=GREY, ncols=2)


def label(axes: Axes, places: list[float], heights: list[float]) -> None:
    """The numbers on top of bars."""
    for place, height in zip(places, heights, strict=True):
        text = f"{height:,.0f}" if height >= 10 else f"{height:.1f}"
        axes.text(place, height, text, ha="center", va="bottom", fontsize=7, color=GREY)


def calls(connections: int) -> dict[str, str]:
    """Case → its name below the bars."""
    names = ("experiments/search", "runs/log-metric", "runs/log-batch", "runs/search")
    return {f"{name} × {connections}": name.replace("/", "/\n") for name in names}


def times(axes: Axes, cases: Cases) -> None:
    """Part a, one connection."""
    grouped(axes, cases, calls(1), "p50_ms")
    axes.set_ylim(0, 2.2 * max(median(cases, case, "direct", "p50_ms") for case in calls(1)) or 1)
    axes.set_title("A call to MLflow, 1 connection: ms (median)")


def rates(axes: Axes, cases: Cases) -> None:
    """Part a, eight connections."""
    grouped(axes, cases, calls(8), "rps")
    axes.set_title("8 connections: requests per second")


def loop(axes: Axes, cases: Cases) -> None:
    """Part a, the SDK."""
    across(axes, {name: median(cases, "SDK loop", name, "seconds") for name in COLOURS}, "{:.1f} s")
    axes.set_title("The SDK's training loop: seconds")


def cost(axes: Axes, cases: Cases) -> None:
    """Part b, on a logarithmic axis: a factor of a thousand lies between."""
    values = {name: median(cases, "16 connections", name, "cpu_us") for name in COLOURS}
    axes.set_xscale("log")
    across(axes, values, "{:,.0f} µs")
    axes.set_title("CPU of one small request in the proxy: µs, logarithmic")


def across(axes: Axes, values: dict[str, float], written: str) -> None:
    """Lying bars with their numbers."""
    known = {name: value for name, value in reversed(values.items()) if value}
    axes.barh(list(known), list(known.values()), color=[COLOURS[name] for name in known])
    for place, value in enumerate(known.values()):
        text = f" {written.format(value)}"
        axes.text(value, place, text, va="center", fontsize=8, color=GREY)
    axes.margins(x=0.18)


def artifacts(axes: Axes, cases: Cases) -> None:
    """Part c, through MLflow."""
    found = [case for case in cases if case.startswith("MLflow: ")]
    groups = {case: case[8:].replace("1,024 MiB", "1 GiB") for case in found}
    groups = {case: name.replace("× ", "×\n").replace("B ", "B\n") for case, name in groups.items()}
    grouped(axes, cases, groups, "mb_per_s")
    axes.tick_params(axis="x", labelsize=7)
    axes.set_title("Artifacts through MLflow: MB/s")


def growth(axes: Axes, cases: Cases) -> None:
    """Part d: each curve beside its own beginning."""
    for case, metric, text in (
        ("streams", "cpu_ms_each", "CPU of a stream, by open streams"),
        ("known keys", "cpu_us", "CPU of a request, by known keys"),
        ("instances", "rps", "requests/s, by instances"),
    ):
        found = sorted((int(name.replace(",", "")), name) for name in cases.get(case, {}))
        values = [median(cases, case, name, metric) for _, name in found]
        if values and values[0]:
            heights = [value / values[0] for value in values]
            axes.plot([count for count, _ in found], heights, marker="o", markersize=4, label=text)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, frameon=False, labelcolor=GREY)
    axes.set_title("Growth: each curve ÷ its first value")


Panel = tuple[str, Callable[[Axes, Cases], None]]

PANELS: dict[str, list[Panel]] = {
    "a": [("a", times), ("a", rates), ("a", loop)],
    "b": [("b", cost)],
    "c": [("c", artifacts)],
    "d": [("d", growth)],
}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
