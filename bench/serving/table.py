"""`python -m bench.serving.table`: the saved figures as Markdown and a plot in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.serving.bars import BARS, disturbed, look
from bench.serving.machine import saved

PAGE = Path("docs/benchmarks.md")
PLOT = Path("docs/images/serving-peers.png")
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
_WARNING = (
    "**Disturbed run**: other work took the same cores (load average up to {:.1f}). Rates, latencies and their ratios "
    "are not to be relied on, least of all those to the quick limits; CPU a request is. To be measured again."
)
SCRIPTS = ("peers", "heavy", "bulk", "overload", "swaps", "workers", "addons")


def bars(results: Mapping[str, Any]) -> list[str]:
    """Every bar with its figure."""
    lines = ["| | case | bar | seen | |", "|---|---|---:|---:|---|"]
    for bar in BARS:
        seen, verdict = bar.held(results)
        lines.append(f"| {bar.case} | {bar.what} | {bar.limit()} | {seen} | {verdict} |")
    return lines


def servers(results: Mapping[str, Any]) -> list[str]:
    """Every server, the fastest first; the ones that could not be measured last, with the reason."""
    found = list((look(results, "peers", "servers") or {}).values())
    measured = [row for row in found if "median" in row and "error" not in row]
    lines = [
        "| server | req/s, 64 conn. | p99 ms | CPU µs/req | req/s, 1 conn. | p50 ms | 100-row req/s | first answer s "
        "| memory MiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(measured, key=lambda row: -row["median"]["many"]["rate"]):
        seen = row["median"]
        many, one = seen["many"], seen["one"]
        bulk = f"{seen['bulk']['rate']:,.0f}" if "bulk" in seen else "–"
        cells = [f"{many['rate']:,.0f}", f"{many['p99_ms']:,.0f}", f"{many['cpu_us']:,.0f}", f"{one['rate']:,.0f}"]
        cells += [f"{one['p50_ms']:.2f}", bulk, f"{seen['first_answer_s']:.2f}", f"{seen['memory_mib']:,.0f}"]
        lines.append(f"| {_title(row)} | {' | '.join(cells)} |")
    lines += [f"| {_title(row)} | {row['error'].splitlines()[0]} |||||||| " for row in found if row not in measured]
    return lines


def by_cpu(results: Mapping[str, Any]) -> list[str]:
    """Perene against the leanest peer by CPU: the comparison that other work on the machine disturbs least."""
    found = look(results, "peers", "servers") or {}
    ours = look(found, "perene", "median", "many", "cpu_us")
    theirs = [
        (row["median"]["many"]["cpu_us"], row["title"]) for row in found.values() if row["peer"] and "median" in row
    ]
    if ours is None or not theirs:
        return []
    least, title = min(theirs)
    return [
        f"By CPU a request, which other work on the machine disturbs least, Perene takes {ours:,.0f} µs and the "
        f"leanest peer ({title}) {least:,.0f} µs: {least / ours:.1f} ×."
    ]


def engine(results: Mapping[str, Any]) -> list[str]:
    """The engine alone."""
    alone: dict[str, float] = look(results, "peers", "engine_s") or {}
    each = [f"{size} row{'s' if size != '1' else ''} {took * 1e6:,.0f} µs" for size, took in alone.items()]
    return [f"Bare `session.run` of the same graph, one thread: {', '.join(each)}."] if each else []


def machine(results: Mapping[str, Any]) -> list[str]:
    """Where, when, how busy."""
    facts = look(results, "peers", "machine")
    if facts is None:
        return []
    rounds = max(len(row["rounds"]) for row in results["peers"]["servers"].values())
    loads = [one["load_average"] for row in results["peers"]["servers"].values() for one in row["rounds"]]
    return [
        *([_WARNING.format(max(loads)), ""] if disturbed(results, "peers") else []),
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}, Python "
        f"{facts['python']}, {facts['date']}; {results['peers']['nginx']}; load by {_first(results['peers']['load'])}.",
        f"Median of {rounds} round{'s' if rounds > 1 else ''}. Load average of the machine {facts['load_average']} "
        f"before and {facts['load_average_after']} after; server and load make at most 2 of it.",
    ]


def others(results: Mapping[str, Any]) -> list[str]:
    """What the other scripts noted."""
    return [
        f"* {name} (`{results[name]['command']}`, {results[name]['machine']['date']}): {results[name]['summary']}"
        for name in SCRIPTS[1:]
        if name in results
    ]


def commands(results: Mapping[str, Any]) -> list[str]:
    """How each server was started, and its versions."""
    found = (look(results, "peers", "servers") or {}).values()
    return [f"* {row['title']}{_versions(row)}: `{row['command']}`" for row in found]


def plot(results: Mapping[str, Any], to: Path) -> None:
    """Rates at 64 connections and CPU of a request, on logarithmic scales."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    found = (look(results, "peers", "servers") or {}).values()
    rows = sorted((row for row in found if "median" in row), key=lambda row: row["median"]["many"]["rate"])
    colours = ["#1f6f5c" if row["name"] == "perene" else "#9aa5b1" if row["peer"] else "#d9c9a3" for row in rows]
    figure, sides = plt.subplots(1, 2, figsize=(11, 0.42 * len(rows) + 1.2), sharey=True, layout="constrained")
    for axes, key, label in zip(sides, ("rate", "cpu_us"), ("requests/s", "server CPU, µs a request"), strict=True):
        values = [row["median"]["many"][key] for row in rows]
        drawn = axes.barh([row["title"] for row in rows], values, color=colours)
        axes.bar_label(drawn, [f"{value:,.0f}" for value in values], padding=3, fontsize=8)
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 2, max(values) * 4)
        axes.set_xlabel(f"{label} (log), 64 connections, one core")
        axes.spines[["top", "right"]].set_visible(False)
    to.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(to, dpi=110, metadata={"Software": None})
    plt.close(figure)


def page(text: str, results: Mapping[str, Any]) -> str:
    """The page with new figures between its markers."""
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    parts = [
        machine(results),
        bars(results),
        [f"![rates and CPU of every server]({PLOT.relative_to(PAGE.parent)})"],
        servers(results),
        by_cpu(results),
        engine(results),
        ["### The other scripts", "", *(others(results) or ["Not run yet."])],
        ["### How each was started", "", *commands(results)],
    ]
    body = "\n\n".join("\n".join(part) for part in parts if part)
    return f"{head}{BEGIN}\n{body}\n{END}{tail}"


def _versions(row: Mapping[str, Any]) -> str:
    found = ", ".join(f"{name} {at}" for name, at in row.get("versions", {}).items())
    return f" ({found})" if found else ""


def _title(row: Mapping[str, Any]) -> str:
    return f"**{row['title']}**" if row["name"] == "perene" else str(row["title"])


def _first(tool: str) -> str:
    return tool.partition(" [")[0]


def main() -> None:
    """Write both."""
    results = {name: found for name in SCRIPTS if (found := saved(name)) is not None}
    PAGE.write_text(page(PAGE.read_text(), results))
    if "peers" in results:
        plot(results, PLOT)
    print("\n".join(bars(results)))


if __name__ == "__main__":
    main()
