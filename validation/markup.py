"""HTML of a page that stands alone: elements whose text is always escaped, and how they look."""

from collections.abc import Iterable
from html import escape

_STYLE = """
:root { --ink: #1f2430; --grey: #5f6673; --line: #e6e8ec; --equivalent: #0b7a60; --better: #1d4fc4; --worse: #b3261e;
  --undecided: #8a6512; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 80rem; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0 0 .5rem; font-size: 1.75rem; line-height: 1.2; }
h2 { margin: 0; font-size: 1.375rem; line-height: 1.3; }
p { margin: .5rem 0; max-width: 75ch; }
a { color: #1d4fc4; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: 1rem 0; }
section { margin-top: 2.5rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem .75rem; margin-bottom: .75rem; }
img { display: block; width: 100%; height: auto; }
.pair { display: grid; grid-template-columns: minmax(0, 1.08fr) minmax(0, 1fr); gap: .5rem 2rem; align-items: start; }
.wide { overflow-x: auto; }
.wide img { min-width: 44rem; max-width: 64rem; }
.grey, small { color: var(--grey); }
small { display: block; font-size: .8125rem; font-weight: 400; line-height: 1.35; }
table { width: 100%; border-collapse: collapse; font-size: .9375rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { font-weight: 600; }
tr > :first-child { padding-left: 0; text-align: left; }
tbody th { font-weight: 400; color: var(--grey); }
.nowrap { white-space: nowrap; }
.even { table-layout: fixed; overflow-wrap: anywhere; }
.even th:first-child { width: 29%; }
.chip { display: inline-block; padding: 0 .6em; border: 1px solid; border-radius: 1em; font-size: .875rem;
  font-weight: 600; white-space: nowrap; }
.equivalent, .equal { color: var(--equivalent); }
.better { color: var(--better); }
.worse, .differs { color: var(--worse); }
.undecided { color: var(--undecided); }
pre { margin: .75rem 0; padding: .6rem .8rem; overflow-x: auto; border-radius: 6px; background: #f5f6f8;
  font: .875rem/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
summary { cursor: pointer; }
details > :not(summary) { margin-left: 1rem; }
@media (max-width: 56rem) {
  .pair { grid-template-columns: minmax(0, 1fr); }
  body { padding: 1.25rem .9rem 3rem; }
  th, td { padding: .3rem .2rem; font-size: .8125rem; }
  small { font-size: .6875rem; }
  .even .chip { padding: 0; border: 0; font-size: inherit; }
}
""".strip()

_VOID = {"img"}


class Html(str):
    """Markup. Any other string is text."""

    __slots__ = ()


def element(tag: str, *children: str, class_: str = "", **attributes: str) -> Html:
    """`<tag ...>children</tag>`: whatever is not Html is escaped, values of attributes too."""
    named = {"class": class_, **attributes} if class_ else attributes
    opening = " ".join((f"<{tag}", *(f'{name}="{escape(value)}"' for name, value in named.items()))) + ">"
    if tag in _VOID:
        return Html(opening)
    inside = "".join(child if isinstance(child, Html) else escape(child) for child in children)
    return Html(f"{opening}{inside}</{tag}>\n")


def table(head: Iterable[str], rows: Iterable[Iterable[str]], class_: str = "") -> Html:
    """The first cell of a row is its name. Wider than the page it scrolls."""
    top = element("tr", *(element("th", cell, scope="col") for cell in head))
    body = []
    for name, *cells in rows:
        body.append(element("tr", element("th", name, scope="row"), *(element("td", cell) for cell in cells)))
    whole = element("table", element("thead", top), element("tbody", *body), class_=class_)
    return element("div", whole, class_="wide")


def chip(verdict: str, text: str = "") -> Html:
    """A verdict in its colour; text: what it says, if not its name."""
    return element("span", text or verdict, class_=f"chip {verdict}")


def document(title: str, *children: Html) -> str:
    """A whole page, which asks for nothing from elsewhere."""
    head = "".join(
        (
            '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            element("title", title),
            element("style", Html(_STYLE)),
        )
    )
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}</head>\n<body>\n{"".join(children)}</body>\n</html>\n'
