"""The Markdown tables and the SVG chart of a comparison."""

import math
from html import escape

from measure import METRICS

REFERENCE, LIMIT = "wireguard-go", "forwarder"

COLUMNS = [
    ("TCP Gbit/s, each way", ["tcp_out", "tcp_in"], " / "),
    ("4 streams", ["tcp_four"], ""),
    ("UDP packets/s at ≤1 % loss, 64 B", ["udp_64"], ""),
    ("1200 B", ["udp_1200"], ""),
    ("delivered of a flood, 64 / 1200 B", ["flood_64", "flood_1200"], " / "),
    ("ping p50 / p99 ms", ["ping_p50", "ping_p99"], " / "),
    ("p99 under TCP", ["loaded_p99"], ""),
    ("CPU s per GB, sender + receiver", ["cpu_sender", "cpu_receiver"], " + "),
    ("memory MB, server / client", ["memory_server", "memory_client"], " / "),
]
RATIOS = {
    "tcp_out": "TCP →", "tcp_in": "TCP ←", "tcp_four": "4 streams", "udp_64": "UDP 64 B",
    "udp_1200": "UDP 1200 B", "cpu": "CPU s/GB, both", "ping_p50": "ping p50",
    "ping_p99": "ping p99", "loaded_p99": "p99 under TCP",
}
#: Panels of the chart.
PANELS = ["tcp_out", "tcp_in", "tcp_four", "cpu", "udp_64", "udp_1200", "ping_p50", "ping_p99",
          "loaded_p99", "memory_client"]
COLOURS = {"ours": "#c2410c", "peer": "#64748b", "limit": "#cbd5e1"}


def number(values, key):
    if key not in values:
        return "–"
    return f"{values[key]:,.{METRICS[key][2]}f}".replace("inf", "lost")


def table(headings, rows):
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def ratio(values, reference, key):
    if key not in values or not reference.get(key) or math.isinf(reference[key]):
        return "–"
    return f"{values[key] / reference[key]:.2f}".replace("inf", "lost")


def best_peer(tunnels, results):
    """The best value of each metric that any peer has."""
    best = {}
    for key in RATIOS:
        having = [results[tunnel.key][key] for tunnel in tunnels
                  if tunnel.kind == "peer" and key in results.get(tunnel.key, {})]
        if having:
            best[key] = max(having) if METRICS[key][3] else min(having)
    return best


def markdown(tunnels, results, about, missing, failures):
    """The whole report. `results` has medians by tunnel and metric."""
    shown = [tunnel for tunnel in tunnels if tunnel.key in results]
    lines = ["# Tunnels compared", "", *about, ""]
    lines.append(table(["tunnel", *(heading for heading, _, _ in COLUMNS)], [
        [tunnel.title, *(between.join(number(results[tunnel.key], key) for key in keys)
                         for _, keys, between in COLUMNS)] for tunnel in shown]))
    best = best_peer(shown, results)
    for title, reference, rows in (
        (f"Ratios to {REFERENCE}", results.get(REFERENCE, {}), shown),
        ("Ratios to the bare forwarder", results.get(LIMIT, {}), shown),
        ("Ours to the best peer of each column", best,
         [tunnel for tunnel in shown if tunnel.kind == "ours"]),
    ):
        if reference and rows:
            lines += ["", f"## {title}", "", "Of CPU and ping less is better.", "", table(
                ["tunnel", *RATIOS.values()],
                [[tunnel.title, *(ratio(results[tunnel.key], reference, key) for key in RATIOS)]
                 for tunnel in rows])]
    for title, said in (("Not measured", missing), ("What failed", failures)):
        if said:
            lines += ["", f"## {title}", "", *(f"- {line}" for line in said)]
    return "\n".join(lines) + "\n"


def times(results, tunnel, key):
    """How often the reference's value a bar is, for its label."""
    found = ratio(results[tunnel.key], results.get(REFERENCE, {}), key)
    return "" if found == "–" or tunnel.key == REFERENCE else f"×{found}"


def chart(tunnels, results, title):
    """Bars, a panel for each metric, in two columns; × is to the reference."""
    shown = [tunnel for tunnel in tunnels if tunnel.key in results]
    bar, label, width, gap = 18, 190, 520, 24
    height = bar * len(shown) + 44
    rows = math.ceil(len(PANELS) / 2)
    total = (2 * width + 3 * gap, rows * (height + gap) + 60)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{total[0]}" height="{total[1]}" '
           f'viewBox="0 0 {total[0]} {total[1]}" font-family="sans-serif" font-size="11">',
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="{gap}" y="28" font-size="16" font-weight="bold">{escape(title)} '
           f'<tspan font-size="12" font-weight="normal">(× is the ratio to {REFERENCE})</tspan>'
           '</text>']
    for i, key in enumerate(PANELS):
        heading, unit, _, more = METRICS[key]
        left, top = gap + i % 2 * (width + gap), 48 + i // 2 * (height + gap)
        better = "more is better" if more else "less is better"
        out.append(f'<text x="{left}" y="{top + 14}" font-size="13" font-weight="bold">'
                   f'{escape(heading)}, {unit} <tspan font-weight="normal" fill="#64748b">'
                   f'({better})</tspan></text>')
        finite = [value for tunnel in shown
                  if math.isfinite(value := results[tunnel.key].get(key, math.inf))]
        largest = max(finite, default=0) or 1
        for j, tunnel in enumerate(shown):
            y = top + 24 + j * bar
            value = results[tunnel.key].get(key)
            length = 0 if value is None else min(1, value / largest) * (width - label - 110)
            out.append(f'<text x="{left + label - 6}" y="{y + 13}" text-anchor="end">'
                       f'{escape(tunnel.title)}</text>')
            out.append(f'<rect x="{left + label}" y="{y + 3}" width="{length:.1f}" '
                       f'height="{bar - 5}" fill="{COLOURS[tunnel.kind]}"/>')
            out.append(f'<text x="{left + label + length + 5:.1f}" y="{y + 13}">'
                       f'{number(results[tunnel.key], key)}'
                       f'<tspan dx="6" fill="#64748b">{times(results, tunnel, key)}</tspan></text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"
