#!/usr/bin/python3
"""Draws docs/dashboard.png: the queries of deploy/grafana/rescind.json, asked of a real run.

    docs/dashboard.py RESCIND [MINUTES]        RESCIND: the binary; 15 minutes without a number

It starts RabbitMQ (deploy/broker), the simulated providers, a worker and a Prometheus with the rules
of deploy/prometheus, all on loopback, and sends requests of deploy/demo-requests.jsonl, most of them
easy ones. A third into the run the providers hang for 40 s, at two thirds the broker is away for 20 s.
Then each panel's expressions are evaluated by that Prometheus and drawn with matplotlib: it is not a
picture of Grafana. It fails if an expression brings no data. Needs python3-matplotlib, python3-yaml
and prometheus of Debian.
"""
import json, pathlib, random, shutil, signal, socket, subprocess, sys, tempfile, time
import urllib.parse, urllib.request

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
BAD = ("wrong-token", "not-found", "deadline", "unknown-provider", "malformed", "timeout-after-effect")
COLOURS = {"green": "#3a8f4d", "orange": "#d98324", "red": "#c0392b"}
STEP = 5


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


def wait_for(what, holds):
    for _ in range(600):
        if holds():
            return
        time.sleep(0.1)
    sys.exit(f"{what}: not ready within a minute")


class Run:
    """The processes of one run, which end with it."""

    def __init__(self, rescind, folder):
        self.rescind, self.folder, self.started = rescind, folder, []
        self.http, self.prometheus = free_port(), free_port()

    def start(self, name, *command):
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        self.started.append(process)
        return process

    def broker(self, verb):
        command = [ROOT / "deploy/broker", verb, self.folder / "broker"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def providers(self):
        config = self.folder / "simulator/rescind.toml"
        self.simulator = self.start(
            "simulator", self.rescind, "simulate", "--listen", "127.0.0.1:0", "--latency", "30ms",
            "--notify", f"http://127.0.0.1:{self.http}", "--write-config", config.parent)
        wait_for("simulator", lambda: config.exists() and "base_url" in config.read_text())
        return config.read_text()

    def worker(self, url, providers):
        config = self.folder / "rescind.toml"
        config.write_text(f"""
[amqp]
url = "{url}"
[http]
listen = "127.0.0.1:{self.http}"
[defaults]
timeout = "3s"
retry = {{ first = "500ms", factor = 2.0, max = "10s", give_up_after = "2m" }}
poll = {{ first = "500ms", factor = 2.0, max = "10s", give_up_after = "2m" }}
""" + providers)
        config.chmod(0o600)
        self.start("worker", self.rescind, "worker", "--config", config)
        wait_for("worker", lambda: answers(f"http://127.0.0.1:{self.http}/readyz"))

    def watch(self):
        shutil.copy(ROOT / "deploy/prometheus/rules.yaml", self.folder)
        config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": f"{STEP}s", "evaluation_interval": f"{STEP}s"}
        scrape = config["scrape_configs"][0]
        del scrape["dns_sd_configs"]
        scrape["static_configs"] = [{"targets": [f"127.0.0.1:{self.http}"]}]
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        address = f"127.0.0.1:{self.prometheus}"
        self.start("prometheus", "prometheus", "--config.file=prometheus.yaml",
                   "--storage.tsdb.path=tsdb", f"--web.listen-address={address}")
        wait_for("prometheus", lambda: answers(f"http://{address}/-/ready"))

    def submit(self, number):
        """A dozen requests, most of them easy; each with an id of its own."""
        lines = (ROOT / "deploy/demo-requests.jsonl").read_text().splitlines()
        weights = [0.03 if any(word in line for word in BAD) else 1 for line in lines]
        chosen = random.choices(lines, weights, k=12)
        text = "\n".join(line.replace("@RUN@", f"{number}-{n}") for n, line in enumerate(chosen))
        command = [self.rescind, "submit", "--config", self.folder / "rescind.toml", "--no-wait", "-"]
        subprocess.run(command, input=text, text=True, capture_output=True, timeout=30, check=False)

    def load(self, seconds):
        begin, number = time.time(), 0
        acts = [(1 / 3, self.hang), (2 / 3, self.lose_broker)]
        while (gone := time.time() - begin) < seconds:
            if acts and gone > acts[0][0] * seconds:
                acts.pop(0)[1]()
            self.submit(number)
            number += 1
            time.sleep(max(0.0, begin + gone + 2 - time.time()))

    def hang(self):
        self.simulator.send_signal(signal.SIGSTOP)
        end = time.time() + 40
        while time.time() < end:
            self.submit(f"hang-{time.time():.0f}")
            time.sleep(2)
        self.simulator.send_signal(signal.SIGCONT)

    def lose_broker(self):
        self.broker("stop")
        time.sleep(20)
        self.broker("start")

    def ask(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.prometheus}/api/v1/{path}?{query}") as reply:
            return json.load(reply)["data"]["result"]

    def end(self):
        for process in reversed(self.started):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.started:
            process.wait()
        self.broker("stop")


def number(value, unit):
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s" if value < 120 else f"{value / 60:.3g} min"
    if unit == "bytes":
        return f"{value / 2**20:.3g} MiB"
    return f"{value:.3g}" + ("/s" if unit == "reqps" else "")


def legend(target, labels):
    text = target["legendFormat"]
    for name in ("provider", "operation", "outcome", "kind", "cause", "state", "verdict", "reason",
                 "action", "status", "instance", "version", "revision"):
        text = text.replace("{{%s}}" % name, labels.get(name, ""))
    return text


def expression(target):
    replaced = target["expr"].replace("$__rate_interval", "1m")
    return replaced.replace("$provider", ".+").replace("$job", "rescind")


def colour(panel, value):
    fitting = [s for s in panel["fieldConfig"]["defaults"]["thresholds"]["steps"] if s["value"] is None or value >= s["value"]]
    return COLOURS[fitting[-1]["color"]]


def draw_stat(axes, panel, found):
    value = float(found[0][1][0]["value"][1])
    axes.set_facecolor(colour(panel, value))
    axes.set_xticks([]), axes.set_yticks([])
    text = number(value, panel["fieldConfig"]["defaults"]["unit"])
    axes.text(0.5, 0.45, text, ha="center", va="center", fontsize=17, color="white", transform=axes.transAxes)


def draw_series(axes, panel, found, begin, end):
    defaults = panel["fieldConfig"]["defaults"]
    stacked = defaults["custom"].get("stacking", {}).get("mode") == "normal"
    times = list(range(int(begin), int(end) + 1, STEP))
    minutes = [(t - begin) / 60 for t in times]
    lines, right = [], None
    for target, series in found:
        for one in series:
            values = {int(t): float(v) for t, v in one["values"]}
            lines.append((legend(target, one["metric"]), [values.get(t, float("nan")) for t in times]))
    # The busiest first; those at 0 for the whole time only fill the legend.
    lines.sort(key=lambda line: -sum(v for v in line[1] if v == v))
    lines = [line for line in lines if any(v > 0 for v in line[1])] or lines[:1]
    if stacked:
        zeros = [[0 if v != v else v for v in values] for _, values in lines]
        axes.stackplot(minutes, zeros, labels=[name for name, _ in lines], alpha=0.75)
    else:
        for name, values in lines:
            if name.endswith("memory"):
                right = right or axes.twinx()
                right.plot(minutes, values, color="grey", label=name)
                right.yaxis.set_major_formatter(lambda v, _: number(v, "bytes"))
                right.set_ylim(bottom=0), right.tick_params(labelsize=6)
            else:
                axes.plot(minutes, values, linewidth=1, label=name)
    top = axes.get_ylim()[1]
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is not None and step["value"] <= top * 1.5:
            axes.axhline(step["value"], color=COLOURS[step["color"]], linewidth=0.8, linestyle="--")
    nothing = not any(v > 0 for _, values in lines for v in values)
    axes.set_ylim(0, 1 if nothing else None)
    axes.yaxis.set_major_formatter(lambda v, _: number(v, defaults["unit"]))
    axes.tick_params(labelsize=6)
    axes.grid(alpha=0.25)
    handles, names = axes.get_legend_handles_labels()
    if right:
        more = right.get_legend_handles_labels()
        handles, names = handles + more[0], names + more[1]
    shown = 6
    names = [name if len(name) < 34 else name[:32] + "…" for name in names[:shown]]
    if len(handles) > shown:
        names[-1] += f"  (+{len(handles) - shown})"
    axes.legend(handles[:shown], names, loc="upper center", bbox_to_anchor=(0.5, -0.07), ncol=3, fontsize=5.5, frameon=False)


def draw(run, begin, end, out):
    dashboard = json.loads((ROOT / "deploy/grafana/rescind.json").read_text())
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in dashboard["panels"])
    figure = plt.figure(figsize=(18, height * 0.33 + 0.5), dpi=80)
    empty, asked = [], 0
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        left, top = at["x"] / 24, 1 - (at["y"] + 1) / (height + 1)
        if panel["type"] == "row":
            figure.text(0.008, top - 0.6 / (height + 1), panel["title"], fontsize=12, weight="bold", va="center")
            continue
        found = []
        for target in panel["targets"]:
            if panel["type"] == "stat":
                data = run.ask("query", query=expression(target), time=end)
            else:
                data = run.ask("query_range", query=expression(target), start=begin, end=end, step=STEP)
            asked += 1
            found.append((target, data))
            if not data:
                empty.append((panel["title"], target["expr"]))
        stat = panel["type"] == "stat"
        # Room for the title above, for ticks and a legend of two lines below.
        tall = at["h"] - (1.2 if stat else 2.2)
        bottom = top - (at["h"] - (0.3 if stat else 1.5)) / (height + 1)
        margins = (0.006, 0.012) if stat else (0.03, 0.056 if "CPU" in panel["title"] else 0.04)
        axes = figure.add_axes([left + margins[0], bottom, at["w"] / 24 - margins[1], tall / (height + 1)])
        axes.set_title(panel["title"], fontsize=8, loc="left")
        if any(data for _, data in found):
            draw_stat(axes, panel, found) if stat else draw_series(axes, panel, found, begin, end)
    figure.text(0.008, 1 - 0.5 / (height + 1), "Rescind", fontsize=15, weight="bold", va="center")
    note = "Queries of deploy/grafana/rescind.json, answered by Prometheus in a run of docs/dashboard.py; drawn by matplotlib, not by Grafana. Time in minutes."
    figure.text(0.09, 1 - 0.5 / (height + 1), note, fontsize=9, va="center", color="#555555")
    figure.savefig(out)
    firing = [alert["metric"]["alertname"] for alert in run.ask("query", query='ALERTS{alertstate="firing"}', time=end)]
    print(f"{asked} expressions, {len(empty)} without data; alerts firing at the end: {sorted(set(firing))}")
    return empty


def main():
    rescind = pathlib.Path(sys.argv[1]).resolve()
    minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 15
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dashboard-"))
    run = Run(rescind, folder)
    try:
        run.worker(run.broker("start"), run.providers())
        run.watch()
        begin = time.time() + 2 * STEP
        run.load(minutes * 60)
        empty = draw(run, begin - begin % STEP, time.time() // STEP * STEP - STEP, ROOT / "docs/dashboard.png")
    finally:
        run.end()
        print(f"logs: {folder}")
    if empty:
        sys.exit("no data: " + json.dumps(empty, indent=1))


if __name__ == "__main__":
    main()
