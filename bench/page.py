"""`--write`: the performance page with its plots, from the documents that runs have stored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import plots, report
from bench.plots import Plot

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_NEW = f"""# Performance

What pgtask does on one small machine, beside its peers, and what limits it.

{BEGIN}
{END}
"""
_HOW = """## How it was measured

Every product runs the same job: its body writes 16 bytes, when it was sent and when it began, to a
file of its process. Rates and latencies are read off these files, not off what a product says of
itself. One PostgreSQL serves all, each product on a fresh database; a round measures the products
one after the other, and the next round does it again. A figure is the median of the rounds, in
brackets the least and the most. Of a drain the first and the last tenth are dropped. CPU is that of
all processes, the server's included.

```text
./dev bench --write                the tables and plots of the comparison
./dev bench --growth --write       the curves
./dev bench --cpu --write          tasks that compute
./dev bench --beat --write         many schedules, and a beat that waits
./dev bench --sql --write          enqueueing from SQL, triggers, keys, lanes
./dev bench --soak 10 --write      a horizon held back
./dev bench --quick                the ratios, in less than three minutes
```
"""


def write(cache: Path, page: Path) -> list[Path]:
    """Write the page and its plots; what stands outside the two comments is left alone.

    Only whole runs are stored under the names read here: no page is made of a part, or of --quick.
    """
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    stored = {
        mode: json.loads(path.read_text("utf-8"))
        for mode in ("rows", "growth", "cpu", "beat", "sql", "soak")
        if (path := cache / "results" / f"{mode}.json").exists()
    }
    drawn: list[Plot] = []
    measured = "\n\n".join(_sections(stored, folder.name, drawn))
    for plot in drawn:
        (folder / f"{plot.name}.svg").write_text(plot.text, "utf-8")
    text = page.read_text("utf-8") if page.exists() else _NEW
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page.name} has no {BEGIN} with {END} after it to write between")
    between = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    page.write_text(between.sub(lambda _: f"{BEGIN}\n{measured}\n{END}", text), "utf-8")
    return [page, *(folder / f"{plot.name}.svg" for plot in drawn)]


def _sections(stored: Mapping[str, Any], folder: str, drawn: list[Plot]) -> Iterator[str]:
    def pictures(found: Iterator[Plot]) -> str:
        made = list(found)
        drawn.extend(made)
        return "\n\n".join(f"![{plot.words}]({folder}/{plot.name}.svg)" for plot in made)

    if rows := stored.get("rows"):
        yield _conditions(rows)
        yield "## Goals\n\n" + _goals(rows)
        yield "## Side by side\n\n" + "\n\n".join(_tables(rows))
        yield pictures(plots.of_rows(rows))
        yield _versions(rows)
    if growth := stored.get("growth"):
        yield "## Growth\n\n" + _growth(growth)
        yield pictures(plots.of_growth(growth))
    if share := stored.get("cpu"):
        yield "## Tasks that compute\n\n" + _goals(share)
    if beat := stored.get("beat"):
        yield "## Schedules\n\n" + _goals(beat)
    if sql := stored.get("sql"):
        yield (
            "## Enqueueing from SQL\n\nTriggers for each statement, on an INSERT of 100,000 rows;"
            f" 100,000 parked jobs with keys, on 100 lanes.\n\n{_goals(sql)}"
        )
    if soak := stored.get("soak"):
        minutes = soak["seconds_each"] / 60
        yield (
            f"## A horizon held back\n\n{soak['rate']:,.0f} jobs/s for {minutes:g} minutes"
            " while a snapshot is open, a transaction that has written sits idle, and one that has"
            f" enqueued stays open.\n\n{_goals(soak)}"
        )
        yield pictures(plots.of_soak(soak))
    yield _HOW.rstrip()


def _conditions(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    settings = ", ".join(f"`{name} = {value}`" for name, value in document["settings"].items())
    return (
        f"Taken on {document['taken']}: {machine['cores']} cores ({machine['architecture']}),"
        f" {machine.get('memory', 'unknown memory')}, {machine['system']},"
        f" Python {machine['python']}, {document['rounds']} rounds. PostgreSQL: {settings}."
    )


def _goals(document: Mapping[str, Any]) -> str:
    rows = [["measure", "goal", "found", ""]]
    for goal in document["goals"]:
        found = "-" if goal["found"] is None else report.number(goal["found"])
        rows.append([goal["what"], goal["goal"], found, report.verdict(goal)])
    return _table(rows)


def _tables(document: Mapping[str, Any]) -> Iterator[str]:
    for row, products in document["figures"].items():
        figures = report.figures(row, products)
        if figures:
            cells = [
                [product, *(report.cell(found.get(figure)) for figure in figures)]
                for product, found in products.items()
            ]
            yield f"### {row}\n\n" + _table([["", *figures], *cells])


def _versions(document: Mapping[str, Any]) -> str:
    rows = [["product", "settings", "versions"]]
    for product, versions in document["versions"].items():
        told = ", ".join(f"{name} {version}" for name, version in versions.items())
        rows.append([product, document["products"].get(product, "a server, not a product"), told])
    text = "## Who ran\n\n" + _table(rows)
    absent = [f"- {name} was not measured: {why}" for name, why in document["missing"].items()]
    return text + ("\n\n" + "\n".join(absent) if absent else "")


def _growth(document: Mapping[str, Any]) -> str:
    parts = []
    cores = document["machine"]["cores"]
    for name, point in document["limits"].items():
        server = point.get("server_cores")
        told = f"; PostgreSQL then uses {server:.2f} of {cores} cores" if server else ""
        parts.append(
            f"- {name}: beyond {point[name]:g}, none gains 5 % over its"
            f" {point['jobs_per_s']:,.0f} jobs/s{told}."
        )
    for name, points in document["curves"].items():
        heads = list(dict.fromkeys(figure for point in points for figure in point))
        cells = [
            [report.number(point[head]) if head in point else "-" for head in heads]
            for point in points
        ]
        parts.append(f"\n### {name}\n\n" + _table([heads, *cells]))
    return "\n".join(parts)


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
