"""The page that says whether graftwork does as well as Stable-Baselines3: what was compared, and what came out."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from ..training.durable import write_text
from .markup import Html, chip, document, element, table
from .parity_rows import ParityRow
from .parity_section import parity_section, read_parity
from .pictures import ROLES, draw_comparisons, draw_curves, draw_profile, sides_of
from .record import VERDICT_SEEDS, AgainstSB3, ComparisonRecord, SideName, SideResult, read_all
from .statistics import FEWEST_SEEDS, Verdict
from .summary import check

_TITLE = "graftwork beside Stable-Baselines3"
_RETURNS, _PARITY, _COMPARISONS = "returns", "parity.csv", "comparisons.png"
_VERDICTS: tuple[Verdict, ...] = ("equivalent", "better", "undecided", "worse")


def write_report(directory: Path) -> list[Path]:
    """Write directory/index.html and its pictures, and return their paths, the page first.

    Read are directory/returns and directory/parity.csv; one of them may be missing. The page runs no script and asks
    for nothing from elsewhere; the same files make the same bytes. ValueError for files that are damaged, and for
    results that are not what their rows come to.
    """
    records = sorted(read_all(directory / _RETURNS), key=lambda record: record.name)
    parity = read_parity(directory / _PARITY)
    if not records and not parity:
        raise ValueError(
            f"{directory}: has neither a comparison in {_RETURNS}/ nor {_PARITY}; `graftwork validate` makes them"
        )
    for record in records:
        check(directory / _RETURNS / f"{record.name}.json", record)
    pictures = []
    if any(record.against_sb3 for record in records):
        pictures.append(directory / _COMPARISONS)
        draw_comparisons(records, pictures[0])
    for record in records:
        pictures += [directory / _curves(record), directory / _profile(record)]
        draw_curves(record, pictures[-2])
        draw_profile(record, pictures[-1])
    sections = [*_opening(records, parity), *map(_comparison, records)]
    sections += [parity_section(parity)] if parity else []
    page = directory / "index.html"
    write_text(page, document(_TITLE, *sections))
    return [page, *pictures]


def _opening(records: Sequence[ComparisonRecord], parity: Sequence[ParityRow]) -> list[Html]:
    links = [element("a", record.name, href=f"#{quote(record.name)}") for record in records]
    links += [element("a", "parity of weights", href="#parity")] if parity else []
    opening = [element("h1", _TITLE), element("p", _summary(records)), element("nav", *links)]
    if any(record.against_sb3 for record in records):
        rows = [
            [element("a", record.name, href=f"#{quote(record.name)}"), *_overview(record, side)]
            for record in records
            for side in record.against_sb3
        ]
        head = ("", "graftwork's side", "seeds", "IQM", "SB3's IQM", "difference, of the range", "P(better)", "verdict")
        alt = "Interquartile means of both sides of each comparison, and their difference, as in the table below"
        opening.append(element("div", element("img", src=_COMPARISONS, alt=alt), class_="wide"))
        opening.append(table(head, rows, "nowrap"))
    return [*opening, _how_to_read()] if records else opening


def _summary(records: Sequence[ComparisonRecord]) -> str:
    """Of a comparison the side with SB3's own settings counts, if there is one."""
    if not records:
        return "No returns have been compared yet."
    first = [record.against_sb3.get(sides_of(record)[0]) for record in records]
    decided = [found for found in first if found is not None and not found.reason]
    if not decided:
        return f"No comparison has a verdict yet: it takes {VERDICT_SEEDS} seeds of each side."
    text = f"{len(decided)} of {len(records)} comparisons have a verdict: {_counted(decided)}."
    both = [record.against_sb3 for record in records if {"equal", "preset"} <= record.against_sb3.keys()]
    presets = [found["preset"] for found in both if not found["preset"].reason]
    second = f" Where the preset differs from SB3's settings, it is a second side: {_counted(presets)}."
    return text + second if presets else text


def _counted(found: Sequence[AgainstSB3]) -> str:
    counts = Counter(each.verdict for each in found)
    return ", ".join(f"{counts[name]} {name}" for name in _VERDICTS if counts[name] or name == "worse")


def _overview(record: ComparisonRecord, side: SideName) -> list[str]:
    own, theirs, found = record.results[side], record.results["sb3"], record.against_sb3[side]
    return [
        ROLES[side].split(", ")[-1],
        " and ".join(dict.fromkeys(record.seeds_told(each.seeds) for each in (own, theirs))),
        _with_bounds(own.iqm, _return),
        _with_bounds(theirs.iqm, _return),
        _with_bounds(found.difference, _signed),
        _with_bounds(found.probability_of_improvement, _share),
        _verdict(found),
    ]


def _how_to_read() -> Html:
    lines = (
        "The unit is a seed: one training run from scratch on one thread. What it came to is the mean return of 100 "
        "fresh greedy episodes with the weights of its last step, never of its best one. Both sides train for the same "
        "number of environment steps, to the end of the batch in which it is reached, on the same environments, and "
        "are evaluated on the same episodes.",
        "IQM is the interquartile mean, that of the middle half of the seeds, in its 95% bootstrap interval. "
        "Differences are shares of the range from a random policy to the best known return. P(better) is the "
        "probability that a seed of ours ends above one of SB3's. A seed in the lower half of the range has failed. "
        "The mean along the way, of the evaluations during training, is the area under the learning curve.",
        "Equivalent: the 90% interval of the difference lies within the margin that was declared before the runs: two "
        "one-sided tests at 5%. Otherwise better or worse if the interval does not reach 0, undecided if it does. "
        f"Of fewer than {VERDICT_SEEDS} seeds it is always undecided: resampling so few errs too often.",
        "The number of seeds is declared before the runs too, and the verdict that counts is that of all of them. One "
        "of fewer is a look on the way: to stop at the first that one likes would err more often than in 5%.",
    )
    return element("details", element("summary", "How to read this"), *(element("p", line) for line in lines))


def _comparison(record: ComparisonRecord) -> Html:
    """All of one, on a screen."""
    size = f"{record.steps:,} environment steps, {record.seeds_told(len(record.seeds))} seeds a side"
    chips = [
        element("span", f"{ROLES[side].split(', ')[-1]}: ", chip(found.verdict))
        for side, found in record.against_sb3.items()
    ]
    curves = f"Return against environment steps of {', '.join(ROLES[side] for side in sides_of(record))}"
    profile = "Share of seeds whose final return is above each return"
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    machine = f"{record.machine.processor}, {record.machine.cores} cores, {record.machine.threads} thread a run"
    return element(
        "section",
        element("header", element("h2", f"{record.env}: {record.name}"), element("span", size, class_="grey"), *chips),
        element(
            "div",
            element("img", src=quote(_curves(record)), alt=curves),
            element("div", _results(record), element("img", src=quote(_profile(record)), alt=profile)),
            class_="pair",
        ),
        *([element("p", record.notes)] if record.notes else []),
        element("pre", element("code", record.command)),
        element("p", f"{machine}. {versions}.", class_="grey"),
        _details(record),
        id=record.name,
    )


def _results(record: ComparisonRecord) -> Html:
    sides = sides_of(record)
    head = ["", *(element("span", ROLES[side], element("small", record.sides[side].title)) for side in sides)]
    if not record.results:
        rows = [[f"seed {seed}", *(_of_seed(record, side, seed) for side in sides)] for seed in record.seeds]
        least = f"Intervals need {FEWEST_SEEDS} seeds, a verdict {VERDICT_SEEDS}; these are the final returns so far."
        return element("div", table(head, rows, "even"), element("p", least, class_="grey"))

    def own(name: str, tell: Callable[[SideResult], str]) -> list[str]:
        return [name, *(tell(record.results[side]) for side in sides)]

    def against(name: str, tell: Callable[[AgainstSB3], str]) -> list[str]:
        return [name, *(tell(record.against_sb3[side]) if side in record.against_sb3 else "" for side in sides)]

    rows = [
        own("final return, IQM", lambda result: _with_bounds(result.iqm, _return)),
        own("final return, mean", lambda result: _return(result.mean)),
        own("failed seeds", lambda result: f"{result.failure_rate * result.seeds:.0f} of {result.seeds}"),
        own("mean along the way", lambda result: _return(result.area)),
        against("difference, scaled", lambda found: _with_bounds(found.difference, _signed)),
        against("P(better)", lambda found: _with_bounds(found.probability_of_improvement, _share)),
        against(f"verdict, ±{record.margin:g}", _verdict),
        own("steps a second", lambda result: f"{result.steps_per_second:,.0f}"),
        own("peak memory", lambda result: f"{result.peak_megabytes:,.0f} MB"),
    ]
    return table(head, rows, "even")


def _verdict(found: AgainstSB3) -> Html:
    return element("span", chip(found.verdict), *([element("small", found.reason)] if found.reason else []))


def _of_seed(record: ComparisonRecord, side: SideName, seed: int) -> str:
    return next(_return(row.final) for row in record.rows if (row.side, row.seed) == (side, seed))


def _details(record: ComparisonRecord) -> Html:
    """Folded away: settings, and where every seed's numbers are."""
    files = [f"{_RETURNS}/{record.name}{end}" for end in (".csv", "-curves.csv", ".json")]
    links = [part for file in files for part in (element("a", file, href=quote(file)), " ")]
    random, best = record.range
    settings = []
    for side in sides_of(record):
        shown = json.dumps(record.sides[side].settings, indent=1, ensure_ascii=False)
        settings += [element("p", f"{ROLES[side]}: {record.sides[side].title}"), element("pre", shown)]
    return element(
        "details",
        element("summary", "Settings, and the numbers of every seed"),
        element("p", f"Scores: {random:g} is 0, {best:g} is 1. ", *links),
        *settings,
    )


def _curves(record: ComparisonRecord) -> str:
    return f"{record.name}-curves.png"


def _profile(record: ComparisonRecord) -> str:
    return f"{record.name}-profile.png"


def _with_bounds(interval: tuple[float, float, float], number: Callable[[float], str]) -> Html:
    value, low, high = map(number, interval)
    return element("span", value, element("small", f"{low} to {high}"))


def _return(value: float) -> str:
    return f"{value:,.1f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _share(value: float) -> str:
    return f"{value:.2f}"
