#!/usr/bin/env python3
"""Markdown tables of results: table.py RESULTS.jsonl prints them, table.py RESULTS.jsonl FILE.md puts them between
the file's two marks."""
import json
import re
import sys

BEGIN, END = "<!-- tables: written by benches/peers/table.py -->", "<!-- end of tables -->"


def number(ms):
    return f"{ms:.3f}" if ms < 1 else f"{ms:.2f}" if ms < 10 else f"{ms:.1f}" if ms < 100 else f"{ms:.0f}"


def title(shape):
    return "×".join(map(str, shape))


def unique(values):
    return list(dict.fromkeys(values))


def table(head, columns, rows, cell):
    """Rows are names with whatever finds their cells."""
    out = [f"| {' | '.join([*head, *map(title, columns)])} |", "|---" * len(head) + "|--:" * len(columns) + "|"]
    for names, key in rows:
        out.append(f"| {' | '.join([*names, *(cell(key, shape) for shape in columns)])} |")
    return [*out, ""]


def ours(lines, device):
    found = {(r["op"], r["dtype"], r["layout"], r["shape"]): r for r in lines if r["device"] == device}
    out = [f"### wgnorm on {device}", "", "ms (share of the copy's speed), medians.", ""]

    def cell(key, shape):
        r = found.get((*key, shape))
        return f"{number(r['ms_median'])} ({100 * r['fraction_of_copy']:.0f} %)" if r else "–"

    for rank in sorted({len(shape) for *_, shape in found}, reverse=True):
        keys = unique(key[:3] for key in found if len(key[3]) == rank)
        columns = unique(key[3] for key in found if len(key[3]) == rank)
        rows = [((op, f"{dtype} {layout}"), (op, dtype, layout)) for op, dtype, layout in keys]
        out += table(["operation", "tensor"], columns, rows, cell)
    return out


def side_by_side(lines, op):
    lines = [r for r in lines if r["op"] == op and r["dtype"] == "f32" and r["layout"] in ("nchw", "rows")]
    who = lambda r: (r["peer"], r["version"], r["device"], r["scope"])
    if len({r["peer"] for r in lines}) < 2:
        return []
    found = {(who(r), r["shape"]): r for r in lines}
    cell = lambda key, shape: number(found[key, shape]["ms_median"]) if (key, shape) in found else "–"
    rows = [((f"{peer} {version}", device, scope), (peer, version, device, scope))
            for peer, version, device, scope in unique(map(who, lines))]
    head = ["", "device", "scope"]
    return [f"### {op}, f32", "", "ms, medians.", "", *table(head, unique(r["shape"] for r in lines), rows, cell)]


def tables(lines):
    done = [dict(r, shape=tuple(r["shape"])) for r in lines if "failed" not in r]
    loads = [r["load"] for r in done]
    days = sorted({r["day"] for r in done})
    out = [f"Measured {' to '.join(unique([days[0], days[-1]]))} on {', '.join(unique(r['host'] for r in done))}, "
           f"at a load average of {min(loads)} to {max(loads)}.", ""]
    mine = [r for r in done if r["peer"] == "wgnorm"]
    for device in unique(r["device"] for r in mine):
        out += ours(mine, device)
    for op in unique(r["op"] for r in done):
        out += side_by_side(sorted(done, key=lambda r: r["peer"] != "wgnorm"), op)
    failed = [f"- {r['peer']}, {r['device']}, {r['op']} {title(r['shape'])}: {r['failed']}" for r in lines if "failed" in r]
    return "\n".join([*out, *(["### Failed", "", *failed] if failed else [])]).rstrip()


def main():
    lines = [json.loads(line) for line in open(sys.argv[1])]
    text = tables(lines)
    if len(sys.argv) < 3:
        return print(text)
    page = open(sys.argv[2], encoding="utf-8").read()
    marked = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not marked.search(page):
        sys.exit(f"{sys.argv[2]} has no marks for tables")
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write(marked.sub(lambda _: f"{BEGIN}\n\n{text}\n\n{END}", page))


main()
