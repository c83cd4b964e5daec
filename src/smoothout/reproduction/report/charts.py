"""The interactive charts of the report, as Plotly figures: methods compared, causes, searches."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from textwrap import wrap
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from smoothout.analysis.jobs.search_comparison import SearchComparison
from smoothout.common.grouping import grouped
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.claim_tests import ClaimTest
from smoothout.reproduction.claims import ClaimKind
from smoothout.reproduction.judgement import JudgedTest
from smoothout.reproduction.report.evidence import Evidence
from smoothout.reproduction.report.settings import Comparison
from smoothout.reproduction.table import TablePlan
from smoothout.reproduction.verdict_page import VerdictPage
from smoothout.reproduction.verdict_text import format_estimate
from smoothout.results.figures.sharpness import WORDS

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C4A2F", "#666666")  # Okabe and Ito
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
LABEL_WIDTH = 44  # letters, for a phone
ESTIMATES = "Each interval is for its test alone; colors are verdicts, which are corrected for all tests of the page."
VERDICT_COLORS = {"holds": "#1a7f37", "holds_if_normal": "#57a86b", "contradicted": "#b42318"}
VERDICT_COLORS |= {"contradicted_if_normal": "#d9705f", "undecided": "#7a6a2a", "untested": "#888888"}


def escape(text: object) -> str:
    """``text`` in a label of Plotly, which reads some tags, and no entities of quotes."""
    return html.escape(str(text), quote=False)


@dataclass(frozen=True)
class Chart:
    """A Plotly figure with its title and caption."""

    name: str  # part of addresses
    title: str
    caption: str
    figure: go.Figure
    columns: int = 1  # of plots side by side

    @property
    def height(self) -> int:
        """Its height in pixels, so that a page does not move while it is drawn."""
        return int(self.figure.layout.height)

    def spec(self) -> dict[str, Any]:
        """What Plotly draws, in plain values."""
        spec: dict[str, Any] = self.figure.to_plotly_json()
        return {"data": spec["data"], "layout": {k: v for k, v in spec["layout"].items() if k != "template"}}


@dataclass(frozen=True)
class Point:
    """A setting with both numbers."""

    network: str
    row: str
    method: str
    protocol: str
    accuracy: dict[int, float]
    curvature: dict[int, float]


def compare_methods(
    plans: Iterable[TablePlan], comparison: Comparison, runtime: Runtime, evidence: Evidence
) -> list[Chart]:
    """Accuracy against curvature, one point for each setting, a chart for each network."""
    networks = dict[str, dict[str, Point]]()
    for plan in plans:
        for training, point in _points(plan, comparison, runtime, evidence):
            networks.setdefault(point.network, {}).setdefault(training, point)  # tables share trainings
    return [_comparison(network, [*points.values()]) for network, points in networks.items()]


def _points(
    plan: TablePlan, comparison: Comparison, runtime: Runtime, evidence: Evidence
) -> Iterable[tuple[str, Point]]:
    """The settings of a table with both numbers, each by the digest of its first training."""
    accuracies, curvatures = (
        [name for name in names if name in plan.config.metrics][:1]
        for names in (comparison.accuracies, comparison.curvatures)
    )
    for (row, method), *names in product(plan.runs, accuracies, curvatures):
        cells = [plan.cell(row, method, name) for name in names]
        accuracy, curvature = (cell.values(runtime).values for cell in cells)
        if accuracy and curvature:
            job = cells[0].first_job.training_job
            network, title = evidence.network(job), plan.methods[method].title
            yield job.digest, Point(network, row, title, plan.scope.protocol, accuracy, curvature)


def _comparison(network: str, points: Sequence[Point]) -> Chart:
    methods = list(dict.fromkeys(point.method for point in points))
    places = list(dict.fromkeys((point.row, point.protocol) for point in points))
    figure = go.Figure()
    for point in points:
        both = sorted(point.accuracy.keys() & point.curvature.keys())
        x, y = [point.curvature[seed] for seed in both], [point.accuracy[seed] for seed in both]
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers",
            name=escape(f"{point.method}; {point.row}, {point.protocol}"),
            text=[f"{escape(point.method)}<br>{escape(point.row)}, {point.protocol}, seed {seed}" for seed in both],
            hovertemplate="%{text}<br>curvature %{x:.4g}, accuracy %{y:.2f}%<extra></extra>",
            marker={
                "color": COLORS[methods.index(point.method) % len(COLORS)],
                "symbol": SYMBOLS[places.index((point.row, point.protocol)) % len(SYMBOLS)],
                "size": 10,
                "opacity": 0.8,
            },
        )
    figure.update_xaxes(title="sharpness (converged) in %, log scale", type="log")
    figure.update_yaxes(title="test accuracy in %")
    figure.update_layout(height=400 + 16 * len(points))
    caption = (
        "A point is a run. Farther to the left is flatter, higher is better; colors are methods, shapes are settings."
    )
    return Chart(f"comparison-{network}", f"Accuracy against curvature: {network}", caption, figure)


def draw_estimates(name: str, page: VerdictPage) -> list[Chart]:
    """The estimates of all differences in points with their intervals, a chart for each claim that has several."""
    claims = grouped((judged.test.claim.statement, judged) for judged in page.judged if _has_points(judged.test))
    profile = page.claim_scope.profile
    length = "" if profile == "paper" else f" (profile {profile})"
    several = [(statement, tests) for statement, tests in claims.items() if len(tests) > 1]
    return [
        Chart(f"{name}-{number}", f"{page.prose.title}{length}: {statement}", ESTIMATES, _estimates(tests))
        for number, (statement, tests) in enumerate(several)
    ]


def _has_points(test: ClaimTest) -> bool:
    """Whether its estimate is a difference in points with an interval."""
    return test.evidence.n > 1 and test.claim.kind is ClaimKind.difference and not test.metric.ratio_scale


def _estimates(tests: Sequence[JudgedTest]) -> go.Figure:
    results = [judged.test.evidence for judged in tests]
    figure = go.Figure()
    figure.add_scatter(
        x=[result.value for result in results],
        y=list(range(len(tests))),
        error_x={
            "type": "data",
            "array": [result.ci_high - result.value for result in results],
            "arrayminus": [result.value - result.ci_low for result in results],
            "color": COLORS[-1],
        },
        mode="markers",
        text=[
            f"{escape(judged.test.row)}<br>{format_estimate(judged.test)}, {judged.test.evidence.n} seeds"
            f"<br>{judged.verdict}"
            for judged in tests
        ],
        hovertemplate="%{text}<extra></extra>",
        marker={"size": 11, "color": [VERDICT_COLORS[judged.verdict.name] for judged in tests]},
    )
    figure.add_vline(x=0, line_dash="dot", line_color=COLORS[-1])
    figure.update_xaxes(title="effect in points, with its 95% interval")
    figure.update_yaxes(range=[len(tests) - 0.5, -0.9], tickvals=list(range(len(tests))), showticklabels=False)
    for place, judged in enumerate(tests):  # a name above its line leaves the width to the intervals, on a phone too
        words = wrap(f"{judged.test.row} ({', '.join(judged.test.protocols)})", LABEL_WIDTH)
        label = {"text": "<br>".join(map(escape, words)), "align": "left", "font_size": 12, "showarrow": False}
        figure.add_annotation(label, x=0, xref="paper", xanchor="left", y=place, yanchor="bottom", yshift=6)
    figure.update_layout(height=90 + 56 * len(tests), showlegend=False, margin={"l": 20, "r": 20, "t": 20, "b": 50})
    return figure


def draw_searches(runtime: Runtime) -> Chart | None:
    """The highest sharpness that each search has found by number of evaluations; None without records."""
    records = list(runtime.records.iter_readable(SearchComparison.kind))
    if not records:
        return None
    spaces = list(dict.fromkeys(course["space"] for record in records for course in record.outcome["courses"]))
    words = {"full": "full space", "subspace": "a random subspace"}
    runs = [f"{record.labels['model']}, {record.labels['data']}, {record.labels['batch']}" for record in records]
    titles = [f"{escape(run)}: {words[space]}" for run in runs for space in spaces]
    figure = make_subplots(len(records), len(spaces), subplot_titles=titles)
    searches = list(dict.fromkeys(c["search"] for record in records for c in record.outcome["courses"]))
    for row, record in enumerate(records, 1):
        for course in record.outcome["courses"]:
            place, values = searches.index(course["search"]), course["values"]
            figure.add_scatter(
                x=list(range(1, len(values) + 1)),
                y=[float(f"{value:.4g}") for value in values],
                mode="lines",
                name=WORDS[course["search"]],
                legendgroup=course["search"],
                showlegend=row == 1 and course["space"] == spaces[0],
                line={"color": COLORS[place % len(COLORS)]},
                hovertemplate=WORDS[course["search"]] + "<br>%{y:.4g}% after %{x} evaluations<extra></extra>",
                row=row,
                col=spaces.index(course["space"]) + 1,
            )
    figure.update_xaxes(title="evaluations")
    figure.update_yaxes(title="sharpness in %")
    figure.update_layout(height=360 * len(records))
    caption = "Every value is a lower bound of the maximum in the same box: the higher, the better the search."
    title = "Which searches for the sharpness can be trusted"
    return Chart("searches", title, caption, figure, len(spaces))
