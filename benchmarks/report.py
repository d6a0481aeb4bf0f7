"""Makes the tables and the plot of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import OURS, PROJECT_HELP, PROJECT_RERUN

MIB = 1 << 20
RERUN = PROJECT_RERUN.name

Results = dict[str, Any]


@dataclass(frozen=True)
class Cost:
    """What one contestant's runs of one case cost: medians, and the range of the wall times."""

    wall_s: float
    fastest_s: float
    slowest_s: float
    cpu_s: float
    peak_mib: float
    runs: int


Costs = dict[str, dict[str, Cost]]  # by case, then by contestant


@dataclass(frozen=True)
class Target:
    """Something to reach: at most ``limit``, or at least. ``measure`` raises KeyError for what was not measured."""

    what: str
    limit: float
    measure: Callable[[Costs, dict[str, int]], float]
    unit: str = "x"
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


def _wall(case: str, peer: str, ours: str = OURS) -> Callable[..., float]:
    return lambda costs, _rows: costs[case][ours].wall_s / costs[case][peer].wall_s


def _speed(costs: Costs, rows: dict[str, int], size: str) -> float:
    return rows[size] / costs[size][OURS].wall_s


_RATIOS = {
    "L": {"polars": 0.40, "duckdb": 0.60, "dlt": 0.65, "naive": 0.50},
    "M": {"polars": 0.80, "duckdb": 0.80, "dlt": 0.60, "naive": 0.65},
    "M.csv.gz": {"naive": 0.35},
    "S": {"naive": 1.15},
}
TARGETS = (
    *(
        Target(f"{case}, wall, to {peer}", limit, _wall(case, peer))
        for case, limits in _RATIOS.items()
        for peer, limit in limits.items()
    ),
    Target("S unchanged, wall, to naive", 0.75, _wall("S", "naive", RERUN)),
    Target("L, peak memory", 550, lambda costs, _: costs["L"][OURS].peak_mib, "MiB"),
    Target("XL, peak memory, to L", 1.10, lambda costs, _: costs["XL"][OURS].peak_mib / costs["L"][OURS].peak_mib),
    Target(
        "XL, rows/s, to L", 0.9, lambda costs, rows: _speed(costs, rows, "XL") / _speed(costs, rows, "L"), at_least=True
    ),
    Target("main.py --help, wall", 0.3, lambda costs, _: costs["help"][PROJECT_HELP.name].wall_s, "s"),
)


def markdown(results: Results) -> str:
    """The machine, a table for each case, the targets, and where this project's time went."""
    costs = costs_of(results)
    return "\n".join(
        [
            *_machine_lines(results["machine"]),
            *_case_lines(costs, results["rows"]),
            *_failure_lines(results),
            *_target_lines(costs, results["rows"]),
            *_step_lines(results),
        ]
    )


def costs_of(results: Results) -> Costs:
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for run in results["runs"]:
        if "failure" not in run:
            runs.setdefault(run["case"], {}).setdefault(run["contestant"], []).append(run)
    return {case: {name: _cost(some) for name, some in by_name.items()} for case, by_name in runs.items()}


def plot(results: Results, path: Path) -> None:
    """Bars for wall time and peak memory, a column of panels for each size that was compared."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "benchmarks"
    costs = {case: costs for case, costs in costs_of(results).items() if case in results["rows"] and len(costs) > 1}
    figure = Figure(figsize=(4.2 * max(len(costs), 1), 5.2), layout="constrained")
    for column, (case, by_name) in enumerate(costs.items()):
        for row, (what, unit) in enumerate((("wall time", "s"), ("peak memory", "MiB"))):
            axes = figure.add_subplot(2, len(costs), 1 + column + row * len(costs))
            values = {name: cost.wall_s if unit == "s" else cost.peak_mib for name, cost in by_name.items()}
            _bars(axes, values, f"{results['rows'][case]:,} rows: {what}, {unit}", ".2f" if unit == "s" else ",.0f")
    figure.savefig(path, metadata={"Date": None})


def _cost(runs: list[dict[str, Any]]) -> Cost:
    walls = [run["wall_s"] for run in runs]
    return Cost(
        statistics.median(walls),
        min(walls),
        max(walls),
        statistics.median(run["user_s"] + run["system_s"] for run in runs),
        statistics.median(run["peak_bytes"] for run in runs) / MIB,
        len(runs),
    )


def _machine_lines(machine: dict[str, Any]) -> Iterator[str]:
    software = [f"Python {machine['python']}", *(f"{name} {machine[name]}" for name in ("pandas", "pyarrow"))]
    software += [*machine["peers"], f"S3 server {machine['s3_server']}"]
    yield (
        f"Measured {machine['when']}: {machine['processors']} processors, {machine['memory_gib']} GiB, "
        f"{machine['system']}; {', '.join(software)}. "
        "Medians of interleaved runs; in brackets the range of wall times."
    )


def _case_lines(costs: Costs, rows: dict[str, int]) -> Iterator[str]:
    for case, by_name in costs.items():
        size = case.partition(".")[0]
        title = f"{case}, {rows[size]:,} rows" if size in rows else case
        yield f"\n| {title} | wall, s | CPU, s | peak, MiB | this project / it: wall | memory |"
        yield "|---|---|---|---|---|---|"
        ours = by_name.get(OURS)
        for name, cost in by_name.items():
            against = f"{ours.wall_s / cost.wall_s:.2f} | {ours.peak_mib / cost.peak_mib:.2f}" if ours else "|"
            wall = f"{cost.wall_s:.2f} ({cost.fastest_s:.2f}-{cost.slowest_s:.2f})"
            yield f"| {name} | {wall} | {cost.cpu_s:.2f} | {cost.peak_mib:,.0f} | {against} |"


def _failure_lines(results: Results) -> Iterator[str]:
    for run in results["runs"]:
        if "failure" in run:
            yield f"\n**{run['case']}: {run['contestant']} failed: {run['failure']}**"


def _target_lines(costs: Costs, rows: dict[str, int]) -> Iterator[str]:
    yield "\n| target | limit | measured | met |"
    yield "|---|---|---|---|"
    for target in TARGETS:
        try:
            value = target.measure(costs, rows)
        except KeyError:
            continue
        sign = ">=" if target.at_least else "<="
        met = "yes" if target.is_met(value) else "**no**"
        yield f"| {target.what} | {sign} {target.limit:g} {target.unit} | {value:.3g} {target.unit} | {met} |"


def _step_lines(results: Results) -> Iterator[str]:
    """The steps of this project's last run of each case, from its own report."""
    last = {run["case"]: run["report"] for run in results["runs"] if run.get("report", {}).get("steps")}
    yield "\n| this project, by its own report | duration, s | " + "at work + waiting, s, by step |"
    yield "|---|---|---|"
    for case, report in last.items():
        steps = "; ".join(f"{step['name']} {step['seconds']:.2f} + {step['waited']:.2f}" for step in report["steps"])
        yield f"| {case} | {report['duration_s']:.2f} | {steps} |"


def _bars(axes: Any, values: dict[str, float], title: str, number_format: str) -> None:
    ranked = sorted(values.items(), key=lambda item: -item[1])
    colours = ["#d8572a" if name.startswith(OURS) else "#9aa5b1" for name, _ in ranked]
    bars = axes.barh([name for name, _ in ranked], [value for _, value in ranked], color=colours)
    axes.bar_label(bars, labels=[format(value, number_format) for _, value in ranked], padding=3, fontsize=8)
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.set_xticks([])
    axes.margins(x=0.18)
    axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
