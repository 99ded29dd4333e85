#!/usr/bin/python3
"""Draws docs/throughput.svg and docs/latency.svg from target/bench.json, which `make bench` writes.

    docs/plots.py [BENCH.json]

Needs python3-matplotlib of Debian.
"""
import json, pathlib, sys

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import matplotlib.ticker

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORKER, RELAY, AIM = "#2b6cb0", "#8a8a8a", "#c0392b"
# Text stays text, and the same figures give the same bytes.
matplotlib.rcParams.update({
    "svg.fonttype": "none", "svg.hashsalt": "rescind", "font.family": "sans-serif", "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e4e4e4",
    "axes.axisbelow": True, "legend.frameon": False,
})


def where(report):
    machine = report["machine"]
    quick = "; --quick, too short to judge by" if report["quick"] else ""
    return f"{machine['cores']} cores, RabbitMQ {machine['rabbitmq']}, {machine['date']}{quick}"


def save(figure, axes, report, name):
    axes.annotate(where(report), (1, 1.01), xycoords="axes fraction", ha="right", va="bottom",
                  fontsize=8, color="#707070")
    path = ROOT / "docs" / name
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    print(path.relative_to(ROOT))


def count(rows):
    for unit, name in ((1_000_000, "M"), (1000, "k")):
        if rows >= unit:
            return f"{rows / unit:g}{name}"
    return str(rows)


def throughput(report):
    """The middle run of each size as a share of the middle run on an empty ledger; dots are the runs."""
    steps = report["figures"]["size"]["steps"]
    places = range(len(steps) + 1)
    figure, axes = plt.subplots(figsize=(7, 3.6))
    axes.plot(places, [1] + [step["ratio"] for step in steps], "o-", color=WORKER, label="middle run")
    for place, step in enumerate(steps, 1):
        runs = [rate / step["empty"]["per_second"] for rate in step["sized"]["runs"]["per_second"]]
        axes.plot([place] * len(runs), runs, ".", color=WORKER, alpha=0.4,
                  label="each run" if place == 1 else None)
    ascending = report["figures"]["size"]["ascending"]["ratio"]
    axes.plot(places[-1], ascending, "D", color=WORKER, markerfacecolor="white", label="middle run, ascending names")
    axes.axhline(0.9, color=AIM, linestyle="--", linewidth=1, label="aim")
    axes.set_xticks(places, ["empty"] + [count(step["rows"]) for step in steps])
    axes.set_ylim(0, 1.15)
    axes.set_xlabel("requests in the ledger: so many finished, and as many that wait")
    axes.set_ylabel("throughput, empty ledger = 1")
    axes.legend(loc="lower left")
    save(figure, axes, report, "throughput.svg")


def latency(report):
    """How many of a hundred requests took how much longer than the provider."""
    measured = report["figures"]["latency"]
    figure, axes = plt.subplots(figsize=(7, 3.6))
    for who, colour in (("relay", RELAY), ("worker", WORKER)):
        points = measured[who]["distribution"]
        axes.plot([value for _, value in points], [share for share, _ in points], color=colour,
                  label=f"{who}: p50 {measured[who]['p50_ms']:.1f} ms, p99 {measured[who]['p99_ms']:.1f} ms")
    axes.plot([2, 10], [50, 99], "x", color=AIM, label="aim: p50 and p99 left of these")
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20, 50, 100], minor=False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set_ylim(0, 101)
    axes.set_xlabel(f"added to the provider's own time at {measured['per_second']} requests a second, ms")
    axes.set_ylabel("of 100 requests")
    axes.legend(loc="lower right")
    save(figure, axes, report, "latency.svg")


def main():
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "target/bench.json"
    report = json.loads(path.read_text())
    for scenario, draw in (("size", throughput), ("latency", latency)):
        if scenario in report["figures"]:
            draw(report)
        else:
            print(f"{path}: {scenario} was not measured")


if __name__ == "__main__":
    main()
