"""A result as pictures: for each workload the CPU of each peer, drawn by hand as SVG."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from xml.sax.saxutils import escape

from benchmarks.measure import Result
from benchmarks.peers import PEERS
from benchmarks.report import SERVER, Samples
from benchmarks.workloads import WORKLOADS

WIDTH = 800
LEFT, RIGHT = 330, 130
TOP, BAR, GAP = 62, 22, 12
OURS, OTHERS, POSTGRES = "#0f766e", "#64748b", "#cbd5e1"
POSTGRES_MS = attrgetter("postgres_ms")


def pictures(result: Result, folder: Path, connections: int) -> Iterator[Path]:
    """Write `bench-<workload>.svg` for each workload that was measured at so many connections."""
    samples = Samples(result)
    folder.mkdir(parents=True, exist_ok=True)
    for workload, measured_at in samples.keys:
        if measured_at == connections:
            file = folder / f"bench-{workload.replace('_', '-')}.svg"
            file.write_text(_picture(samples, workload, connections))
            yield file


def _picture(samples: Samples, workload: str, connections: int) -> str:
    costs = []
    for peer in samples.peers(workload, connections):
        server = samples.median(workload, connections, peer, SERVER)
        postgres = samples.median(workload, connections, peer, POSTGRES_MS)
        costs.append((peer, server, postgres))
    costs.sort(key=lambda cost: cost[1] + cost[2])
    most = max(server + postgres for _, server, postgres in costs)
    scale = (WIDTH - LEFT - RIGHT) / most
    height = TOP + len(costs) * (BAR + GAP) + 30
    title = escape(WORKLOADS[workload].title)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="system-ui, sans-serif" font-size="13" role="img" aria-label="{title}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="26" font-size="16" font-weight="600" fill="#0f172a">{title}</text>',
        f'<text x="16" y="46" fill="#475569">CPU milliseconds per request at {connections} '
        "connections, medians; less is better</text>",
    ]
    for place, (peer, server, postgres) in enumerate(costs):
        y = TOP + place * (BAR + GAP)
        middle = y + BAR / 2 + 4.5
        first, second = server * scale, postgres * scale
        colour = OURS if peer == "engram" else OTHERS
        weight = ' font-weight="600"' if peer == "engram" else ""
        lines += [
            f'<text x="{LEFT - 10}" y="{middle}" text-anchor="end"{weight} fill="#0f172a">'
            f"{escape(PEERS[peer].title)}</text>",
            f'<rect x="{LEFT}" y="{y}" width="{first:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<rect x="{LEFT + first:.1f}" y="{y}" width="{second:.1f}" height="{BAR}" '
            f'fill="{POSTGRES}"/>',
            f'<text x="{LEFT + first + second + 8:.1f}" y="{middle}" fill="#334155">'
            f"{_ms(server)} + {_ms(postgres)}</text>",
        ]
    foot = height - 12
    lines += [
        f'<rect x="{LEFT}" y="{foot - 10}" width="11" height="11" fill="{OURS}"/>',
        f'<rect x="{LEFT + 14}" y="{foot - 10}" width="11" height="11" fill="{OTHERS}"/>',
        f'<text x="{LEFT + 31}" y="{foot}" fill="#475569">server</text>',
        f'<rect x="{LEFT + 90}" y="{foot - 10}" width="11" height="11" fill="{POSTGRES}"/>',
        f'<text x="{LEFT + 107}" y="{foot}" fill="#475569">PostgreSQL</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
