"""`python -m bench.monitoring.table`: the saved figures as Markdown in docs/drift-evidence.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.figures import Bar, Rows, claims, known, write
from bench.monitoring.keep import FILE

PAGE = Path("docs/drift-evidence.md")


def _m1(rows: Rows) -> tuple[str, bool]:
    worst = max(rows, key=lambda row: row["episodes"])
    least = min(row["replicates"] for row in rows)
    where = f"{worst['stream']}, n = {worst['n']}"
    counted = f"{least}" if least == _most(rows) else f"{least} to {_most(rows)}"
    return f"at most {worst['episodes']:.2f} ({where}); {counted} replicates", worst["episodes"] <= 1


def _most(rows: Rows) -> int:
    return max(int(row["replicates"]) for row in rows)


def _m2(rows: Rows) -> tuple[str, bool]:
    half, fifth = rows[0], next(row for row in rows if row["shift"] == 0.2 and row["m"] == 2000)
    held = half["median"] <= 3 and (half["p95"] or 99) <= 6 and fifth["median"] <= 4 and (fifth["p95"] or 99) <= 8
    return (
        f"{_windows(half)}; {_windows(fifth)}, with a reference of 2,000 rows; {half['replicates']} replicates",
        held,
    )


def _windows(row: Mapping[str, Any]) -> str:
    late = "more than 12" if row["p95"] is None else f"{row['p95']:.0f}"
    return f"{row['shift']} sd at n = {row['n']}: median {row['median']:.0f}, p95 {late}"


def _m3(rows: Rows) -> tuple[str, bool]:
    return f"{rows[0]['episodes']:.2f}; {rows[0]['replicates']} replicates", rows[0]["episodes"] <= 1


def _m4(rows: Rows) -> tuple[str, bool]:
    found = [row["median"] for row in rows]
    return ", ".join(f"{value:.0f}" for value in found) + f"; {rows[0]['replicates']} replicates", found == [2, 1, 2]


def _m5(rows: Rows) -> tuple[str, bool]:
    small, large = rows[0], rows[1]
    spent = small["count_ms"] + small["judge_ms"]
    return (
        f"{spent:.1f} ms; {large['state_bytes'] / 1000:.0f} kB for 200 features, 64 windows; "
        f"{'equal' if small['merge_equal'] else 'not equal'}",
        spent <= 20 and large["state_bytes"] <= 400_000 and bool(small["merge_equal"]),
    )


def _m6(rows: Rows) -> tuple[str, bool]:
    stable, better, ten, twenty = rows
    held = stable["found"] <= 0.1 and better["found"] <= 0.05 and ten["median"] <= 400 and twenty["median"] <= 110
    return (
        f"{100 * stable['found']:.1f} % alarm; {ten['median']:.0f} labels at +10, {twenty['median']:.0f} at +20; "
        f"{100 * better['found']:.0f} % alarm when better; {stable['replicates']} replicates",
        held,
    )


def _m7(rows: Rows) -> tuple[str, bool]:
    row = rows[0]
    error, same = row["mae"], row["same"]["outside"]
    return (
        f"MAE {error['accuracy']:.4f} of accuracy, {error['roc_auc']:.4f} of AUC; {same} of {row['chunks']} alike",
        error["accuracy"] <= 0.004 and error["roc_auc"] <= 0.003 and same == row["chunks"],
    )


def _m8(rows: Rows) -> tuple[str, bool]:
    row = next(r for r in rows if (r["detector"], r["kind"], r["stream"]) == ("Perene, on losses", "abrupt", "all"))
    return (
        f"F1 {row['f1']:.2f} at {row['false_per_1000']:.3f} false alarms in 1,000 labels; {row['streams']} streams",
        row["f1"] >= 0.5 and row["false_per_1000"] <= 0.3,
    )


def _m9(rows: Rows) -> tuple[str, bool]:
    row = rows[0]
    return f"{row['identical']} of {row['replicates']} runs identical", row["identical"] == row["replicates"]


BARS: dict[str, Bar] = {
    "m1": ("no drift: false episodes in 90 days of hourly windows", "at most 1", _m1),
    "m2": ("windows until one shifted column of twenty is confirmed", "median 3 and 4, p95 twice that", _m2),
    "m3": ("daily wave of 0.4 sd: false episodes in 90 days", "at most 1", _m3),
    "m4": ("nulls 0 to 5 %; missing column; unseen category 2 %: windows", "2, 1, 2", _m4),
    "m5": ("10,000 rows × 20 columns; state; merge", "20 ms; 400 kB; equal", _m5),
    "m6": ("loss: stable for 20,000 labels; +10 and +20 points; better", "10 %; 400; 110; 5 %", _m6),
    "m7": ("estimated quality on the car-loan data", "0.004; 0.003; all 10", _m7),
    "m8": ("abrupt concept drift, river's generators and data", "F1 0.5 at 0.3", _m8),
    "m9": ("labels shuffled, repeated, late; restarts", "identical", _m9),
}


def undrifted(rows: Rows) -> list[str]:
    """M1 in full, beside fixed thresholds of PSI."""
    lines = [
        "| stream without drift | rows a window | Perene: episodes in 90 days | PSI > 0.1: share of windows "
        "| PSI > 0.2: episodes |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        seen = f"{row['episodes']:.2f} ± {row['standard_error']:.2f} ({row['replicates']})"
        usual = f"{100 * row['psi_0.1_windows']:.0f} % | {row['psi_0.2_episodes']:,.0f}"
        lines.append(f"| {row['stream']} | {row['n']:,} | {seen} | {usual} |")
    return lines


def rules(rows: Rows) -> list[str]:
    """The rules in common use on the same rows."""
    sizes = [(100, 0.5), (500, 0.2)]
    lines = [
        "| rule | "
        + " | ".join(f"n = {n}: false episodes in 90 days | {shift} sd: windows" for n, shift in sizes)
        + " |",
        "|---|" + "---:|---:|" * len(sizes),
    ]
    for rule in dict.fromkeys(row["rule"] for row in rows):
        cells = []
        for n, _ in sizes:
            quiet, moved = (
                next(r for r in rows if (r["rule"], r["n"], r["kind"]) == (rule, n, kind))
                for kind in ("quiet", "moved")
            )
            if quiet["windows_alarmed"] > 0.5:
                cells += [f"on in {100 * quiet['windows_alarmed']:.0f} % of windows", "–"]
                continue
            late = "not found" if moved["median"] is None else f"{moved['median']:.0f}"
            cells += [f"{quiet['episodes']:,.1f}", f"{late} ({100 * moved['found']:.0f} % found)"]
        lines.append(f"| {rule} | {' | '.join(cells)} |")
    return lines


def detectors(rows: Rows) -> list[str]:
    """M8 in full, the best F1 on abrupt changes first."""
    lines = [
        "| detector | abrupt: F1 | labels until found | gradual: F1 | labels until found | false alarms in 1,000 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    whole = {(row["detector"], row["kind"]): row for row in rows if row["stream"] == "all"}
    for name in sorted({detector for detector, _ in whole}, key=lambda d: -whole[d, "abrupt"]["f1"]):
        abrupt, gradual = whole[name, "abrupt"], whole[name, "gradual"]
        cells = [f"{row['f1']:.2f} | {row['median_delay']:.0f}" for row in (abrupt, gradual)]
        lines.append(f"| {name} | {' | '.join(cells)} | {abrupt['false_per_1000']:.3f} |")
    return lines


def missed(rows: Rows) -> list[str]:
    """Streams of M8 on which ours is not the best, by F1 on abrupt changes."""
    ours = {r["stream"]: r for r in rows if r["detector"] == "Perene, on losses" and r["kind"] == "abrupt"}
    lines = []
    for stream, own in ours.items():
        others = [r for r in rows if r["stream"] == stream and r["kind"] == "abrupt" and "Perene" not in r["detector"]]
        best = max(others, key=lambda row: row["f1"])
        if stream != "all" and best["f1"] > own["f1"]:
            lines.append(f"* {stream}: {best['detector']} {best['f1']:.2f}, ours {own['f1']:.2f}.")
    return lines or ["* none."]


def real(kept: Mapping[str, Any]) -> list[str]:
    """What was found in the flights, and what was not in Massachusetts."""
    lines = []
    for row in kept.get("flights", {"rows": []})["rows"]:
        told = "with labels" if row["labels"] else "without labels"
        dated = sorted((finding["at"][:10], kind.replace("_", " ")) for kind, finding in row["first"].items())
        first = [f"{kind} on {day}" for day, kind in dated]
        lines.append(f"* Flights, {told}: {', '.join(first) or 'nothing'}.")
    for row in kept.get("employment", {"rows": []})["rows"]:
        found = Counter(
            f"{f['kind'].replace('_', ' ')} ({', '.join(f.get('flagged', []))}), {f['severity']}"
            for f in row["confirmed"]
        )
        order = (
            "in the file's order" if row["order"] == "file" else f"rows of a year in random order {row['order'][4:]}"
        )
        lines.append(
            f"* Employment in Massachusetts, {row['rows']:,} rows, {row['windows']:,} windows, {order}, a false alarm "
            f"accepted in {row['days']:,.0f} days: "
            f"{'; '.join(f'{n} × {what}' for what, n in found.items()) or 'no confirmed finding'}."
        )
    return lines


def page(kept: Mapping[str, Any]) -> str:
    """All tables."""
    machine = kept["m1"]["machine"]
    parts = ["### The claims", *claims(BARS, kept), "", "### No drift", *undrifted(kept["m1"]["rows"])]
    if "beside" in kept:
        parts += ["", "### The same rows under other rules", *rules(kept["beside"]["rows"])]
    if "m8" in kept:
        parts += ["", "### Concept drift, from labels", *detectors(kept["m8"]["rows"])]
        parts += [
            "",
            "Streams on which a detector of river has the better F1 (abrupt):",
            "",
            *missed(kept["m8"]["rows"]),
        ]
    parts += ["", "### Real data", *real(kept)]
    if "worker" in kept:
        row = kept["worker"]["rows"][0]
        parts += [
            "",
            "### Cost",
            f"A model of {row['columns']} columns with {row['rows_per_hour']:,} predictions and labels an hour costs "
            f"{row['cpu_s_per_model_hour']:.2f} s of processor time an hour: one core watches "
            f"{row['models_per_core']:,.0f} of them.",
        ]
    parts += ["", f"Seen on {machine['processor']}, {machine['cores']} cores, Python {machine['python']}."]
    spaced = []
    for line in parts:
        spaced += [line, ""] if line.startswith("###") else [line]
    return "\n".join(spaced)


def main() -> None:
    """Write the page anew between its marks."""
    kept = known(FILE)
    write(PAGE, page(kept))


if __name__ == "__main__":
    main()
