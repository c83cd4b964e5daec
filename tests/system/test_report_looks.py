"""How the report looks: contrast in both color schemes, on paper, and for those who hear it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.browsers import Open
from helpers.report_pages import report_settings

pytestmark = pytest.mark.xdist_group("report")

LEAST_CONTRAST = 4.5  # WCAG 2, level AA, of text that is not large

# The lowest contrast of each pair of colors of text and what is behind it, with an example of where they meet.
CONTRASTS = """() => {
  const channels = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
  const linear = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = channels(getComputedStyle(e).backgroundColor);
      if (color[3] !== 0) return color;
    }
  };
  const pairs = {};
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("svg, script")) continue;
    const [text, back] = [channels(getComputedStyle(element).color), behind(element)];
    const [low, high] = [luminance(text), luminance(back)].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    pairs[`${text} on ${back}`] ??= [contrast, `${element.tagName} ${element.className}`];
  }
  return pairs;
}"""

# Controls without a name that a screen reader could say.
NAMELESS = """() => [...document.querySelectorAll("button, select, input, summary, a, meter, img, [role=img]")]
  .filter((e) => !(e.getAttribute("aria-label") || e.getAttribute("alt") || e.labels?.length || e.textContent.trim()))
  .map((e) => e.outerHTML.slice(0, 200))"""

# Listens after the page's own listener.
WATCH_PRINT = """addEventListener("beforeprint", () => {
  window.foldedInPrint = [...document.querySelectorAll("details:not([open])")].map((one) => one.className);
})"""

HEADINGS = "all => all.map((heading) => Number(heading.tagName[1]))"


@pytest.fixture(scope="module")
def index(report: Path) -> Path:
    return report / "index.html"


def test_all_text_stands_out_from_what_is_behind_it_in_both_color_schemes(open_page: Open, index: Path) -> None:
    page = open_page(index)
    page.locator("#smoothout_v1-table2 button.cell:has(data)").first.click()
    page.wait_for_selector("#evidence[open]")
    for scheme, background in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 24, 29)")):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background
        pairs: dict[str, tuple[float, str]] = page.evaluate(CONTRASTS)
        where = {place.split()[-1] for _, place in pairs.values()}
        assert {"undecided", "holds_if_normal", "contradicted"} <= where, "chips and cells are among them"
        assert {colors: found for colors, found in pairs.items() if found[0] < LEAST_CONTRAST} == {}


def test_headings_are_in_order_and_every_control_has_a_name(open_page: Open, index: Path) -> None:
    page = open_page(index)
    levels = page.locator("body :is(h1, h2, h3, h4, h5, h6)").evaluate_all(HEADINGS)
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False))
    page.locator("#smoothout_v1-table2 button.cell:has(data)").nth(2).click()  # a difference, of two numbers
    page.wait_for_selector("#evidence[open]")
    levels = page.locator("#evidence :is(h1, h2, h3, h4, h5, h6)").evaluate_all(HEADINGS)
    assert levels == [2, 3, 3, 3], "the claim about it, and the two numbers"
    assert page.evaluate(NAMELESS) == []


def test_on_paper_each_part_begins_on_a_page_with_all_that_was_run(open_page: Open, index: Path) -> None:
    page = open_page(index, "#smoothout_later?paper=smoothout_later")
    page.evaluate(WATCH_PRINT)
    folded = page.locator("details:not([open])").count()
    assert folded > 0
    printed = page.pdf(format="A4")
    still = page.evaluate("window.foldedInPrint")
    assert 0 < len(still) < folded
    assert all("unrun" in names.split() for names in still), "what has no records"
    assert page.locator("details:not([open])").count() == folded, "as they were"
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", printed)) > 2
    page.emulate_media(media="print")
    breaks = page.locator(".paper").evaluate_all("all => all.map((one) => getComputedStyle(one).breakBefore)")
    assert breaks == ["page"] * len(report_settings().papers)
    assert page.locator("#filters, nav, .copy").evaluate_all("all => all.every((one) => !one.checkVisibility())")
