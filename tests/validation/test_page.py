"""What the page of validation says and shows, and what it refuses."""

from collections.abc import Iterator, Sequence
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from graftwork.__main__ import main
from graftwork.validation import summary
from graftwork.validation.markup import element, table
from graftwork.validation.page import write_report
from graftwork.validation.pictures import draw_comparisons, draw_curves, draw_profile
from graftwork.validation.record import (
    ComparisonRecord,
    Hardware,
    Point,
    Row,
    SideName,
    SideSettings,
    is_failure,
    write,
)
from graftwork.validation.settings import digest

PARITY = """check,env,seed,steps,updates,truncations,what,difference,tolerance,verdict
"dqn, learning",CartPole-v1,2,20000,9500,12,weights,0.0,0.0,equal
"dqn, learning",CartPole-v1,3,20000,9500,13,weights,3.7e-09,0.0,differs
"""
NOTES = "<script>alert('x')</script> & \"quotes\""
VERSIONS = {"torch": "2.13.0", "stable-baselines3": "2.9.2"}
MACHINE = Hardware(processor="Abacus 7", cores=2, threads=1)


def comparison(
    name: str = "dqn-cartpole",
    sides: Sequence[SideName] = ("equal", "sb3"),
    seeds: int = 5,
    *,
    shift: float = 140.0,
) -> ComparisonRecord:
    """Seed i ends at 100 + 10 i, ours `shift` above; each has been evaluated at 2,000 + i and at 4,000 steps."""
    rows, points, settings = [], [], {}
    for side in sides:
        tree = {"agent": {"discount": 0.99}, "side": side}
        settings[side] = SideSettings(title=f"title of <{side}>", settings=tree, digest=digest(tree))
        for seed in range(seeds):
            final = 100.0 + 10 * seed + (0 if side == "sb3" else shift)
            failed = is_failure(final, 20, 500)
            numbers = {"steps": 4000, "final": final, "area": final / 2, "failed": failed, "seconds": 2.0}
            told = {"steps_per_second": 1987.6, "peak_megabytes": 321.0, "settings": settings[side].digest}
            rows.append(Row.model_validate({"side": side, "seed": seed, **numbers, **told}))
            for step, return_ in ((2000 + seed, 0.0), (4000, final)):
                points.append(Point.model_validate({"side": side, "seed": seed, "step": step, "return": return_}))
    record = ComparisonRecord(
        name=name,
        preset="dqn/cartpole",
        baseline="SB3 DQN",
        env="CartPole-v1",
        steps=4000,
        range=(20.0, 500.0),
        margin=0.05,
        declared_seeds=5,
        command=f"graftwork validate returns {name} --seeds {seeds}",
        notes=NOTES,
        sides=settings,
        versions=VERSIONS,
        machine=MACHINE,
        rows=tuple(rows),
        points=tuple(points),
    )
    return record.model_copy(update={"results": summary.outcomes(record), "against_sb3": summary.verdicts(record)})


def report(directory: Path, *records: ComparisonRecord, parity: str = "") -> str:
    for record in records:
        write(directory / "returns", record)
    if parity:
        (directory / "parity.csv").write_text(parity)
    return write_report(directory)[0].read_text(encoding="utf-8")


class Page(HTMLParser):
    """Elements in order, text between tags, and whether every element ends."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, *names: str) -> list[str]:
        return [str(attributes[name]) for _, attributes in self.found for name in names if name in attributes]


def drawn(monkeypatch: pytest.MonkeyPatch, call: Any, *arguments: Any) -> list[Axes]:
    """The axes of the figure that a call saves."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (figures.append(figure), Path(path).touch()))
    call(*arguments)
    return figures[0].axes


@pytest.fixture(scope="module", autouse=True)
def _few_replicates() -> Iterator[None]:
    """What more come to is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("interval", "difference"):
            patch.setattr(summary, name, partial(getattr(summary, name), replicates=200))
        yield


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The page of two comparisons, one with too few seeds, and of parity."""
    directory = tmp_path_factory.mktemp("validation")
    records = (
        comparison(sides=("equal", "preset", "sb3")),
        comparison("a&b #1", ("preset", "sb3"), seeds=2),
    )
    return directory, report(directory, *records, parity=PARITY)


def test_page_tells_the_numbers_of_every_side(both):
    text = "".join(Page(both[1]).text)
    # Ours end at 240 to 280, of which 240 and 250 are below 260, the middle of 20 and 500; SB3's at 100 to 140.
    for number in ("260.0", "120.0", "2 of 5", "5 of 5", "130.0", "60.0", "1.00", "1.00 to 1.00", "1,988", "321 MB"):
        assert number in text
    _, low, high = comparison().against_sb3["equal"].difference
    assert "+0.292" in text  # 140 / 480
    assert f"{low:+.3f} to {high:+.3f}" in text
    for told in (
        "better",
        "CartPole-v1: dqn-cartpole",
        "title of <preset>",
        "Abacus 7",
        "4,000 environment steps, 5 seeds",
    ):
        assert told in text
    assert "graftwork validate returns dqn-cartpole --seeds 5" in text
    assert "torch 2.13.0, stable-baselines3 2.9.2" in text
    assert '"discount": 0.99' in text


def test_page_counts_a_preset_apart_from_the_same_settings(both):
    text = "".join(Page(both[1]).text)
    assert "1 of 2 comparisons have a verdict: 1 better, 0 worse." in text
    assert "it is a second side: 1 better, 0 worse." in text


def test_text_is_escaped(both):
    page = Page(both[1])
    assert not [tag for tag, _ in page.found if tag in ("script", "equal", "preset", "sb3")]
    assert NOTES in "".join(page.text)


def test_page_asks_for_nothing_from_elsewhere(both):
    directory, html = both
    page = Page(html)
    assert not {tag for tag, _ in page.found} & {"script", "link", "iframe", "object", "base"}
    assert "url(" not in html
    assert "@import" not in html
    assert "://" not in html
    for address in page.values("src", "href"):
        assert "//" not in address
        assert address.startswith("#") or (directory / unquote(address)).is_file()


def test_links_within_the_page_have_their_targets(both):
    page = Page(both[1])
    targets = page.values("id")
    assert targets == ["a&b #1", "dqn-cartpole", "parity"]
    inner = {address for address in page.values("href") if address.startswith("#")}
    assert inner == {"#a%26b%20%231", "#dqn-cartpole", "#parity"}


def test_every_picture_is_shown_and_says_what_it_is(both):
    directory, html = both
    shown = [attributes for tag, attributes in Page(html).found if tag == "img"]
    assert len(shown) == len(list(directory.glob("*.png"))) == 5
    assert all(attributes["alt"] for attributes in shown)


def test_fewer_than_three_seeds_show_final_returns_and_no_verdict(both):
    text = "".join(Page(both[1]).text)
    assert "Intervals need 3 seeds, a verdict 5; these are" in text
    assert "2 of 5 seeds a side" in text


@pytest.mark.parametrize("seeds", [3, 4])
def test_fewer_than_five_seeds_have_intervals_and_no_verdict(seeds: int, tmp_path):
    record = comparison(seeds=seeds)
    assert record.against_sb3["equal"].difference[1] > 0.05
    assert record.against_sb3["equal"].verdict == "undecided"
    text = "".join(Page(report(tmp_path, record)).text)
    assert "undecided" in text
    assert "a verdict needs 5 seeds" in text
    assert f"{seeds} of 5 seeds a side" in text
    assert "No comparison has a verdict yet: it takes 5 seeds of each side." in text


def test_parity_says_how_much_differs(both):
    text = "".join(Page(both[1]).text)
    assert "1 of 2 quantities differ" in text
    assert "20,000" in text
    assert "3.7e-09" in text


def test_page_without_parity_has_no_such_section(tmp_path):
    html = report(tmp_path, comparison(seeds=1))
    assert "parity" not in html.lower()
    assert "No comparison has a verdict yet: it takes 5 seeds of each side." in html
    assert not (tmp_path / "comparisons.png").exists()


def test_page_of_parity_alone(tmp_path, capsys):
    (tmp_path / "parity.csv").write_text(PARITY)
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/index.html\n"
    text = "".join(Page((tmp_path / "index.html").read_text()).text)
    assert "No returns have been compared yet." in text
    assert "1 of 2 quantities differ" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "parity.csv"]


def test_comparison_without_a_finished_seed_has_a_page(tmp_path):
    assert "0 of 5 seeds a side" in report(tmp_path, comparison(seeds=0))


def test_same_files_make_the_same_bytes(tmp_path):
    report(tmp_path, comparison(), parity=PARITY)
    before = {path.name: path.read_bytes() for path in write_report(tmp_path)}
    after = {path.name: path.read_bytes() for path in write_report(tmp_path)}
    assert list(before) == ["index.html", "comparisons.png", "dqn-cartpole-curves.png", "dqn-cartpole-profile.png"]
    assert before == after


def test_curve_is_the_interquartile_mean_on_a_common_axis(tmp_path, monkeypatch):
    record = comparison(shift=100.0)
    (axis,) = drawn(monkeypatch, draw_curves, record, tmp_path / "curves.png")
    sb3, ours = [line for line in axis.get_lines() if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
    assert ours.get_xdata().tolist() == [2004, 4000]  # where the last seed begins
    # Between 2,000 + i and 4,000 seed i of ours rises from 0 to 200 + 10 i; the middle three of five seeds are 1, 2, 3.
    first = np.mean([(200 + 10 * seed) * (4 - seed) / (2000 - seed) for seed in (1, 2, 3)])
    assert ours.get_ydata() == pytest.approx([first, 220])
    assert sb3.get_ydata()[1] == 120
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["graftwork, same settings, 5 seeds", "Stable-Baselines3, 5 seeds"]


def test_two_seeds_are_thin_lines_about_their_mean(tmp_path, monkeypatch):
    (axis,) = drawn(monkeypatch, draw_curves, comparison(seeds=2, shift=0.0), tmp_path / "curves.png")
    ends = [line.get_ydata()[-1] for line in axis.get_lines() if line.get_linestyle() == "-"]
    assert ends == [100, 110, 105] * 2
    assert axis.get_ylabel() == "return, mean over seeds"


def test_profile_steps_down_at_each_final_return(tmp_path, monkeypatch):
    (axis,) = drawn(monkeypatch, draw_profile, comparison(seeds=4, shift=7.0), tmp_path / "profile.png")
    _, ours = axis.get_lines()
    assert ours.get_xdata()[1:-1].tolist() == [107, 117, 127, 137]
    assert ours.get_ydata() == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0])


def test_differences_of_all_comparisons_are_beside_their_margins(tmp_path, monkeypatch):
    records = [comparison(sides=("equal", "preset", "sb3")), comparison("b_$1", ("preset", "sb3"))]
    scores, differences = drawn(monkeypatch, draw_comparisons, records, tmp_path / "all.png")
    labels = [label.get_text() for label in scores.get_yticklabels()]
    assert labels == ["dqn-cartpole, same settings", "dqn-cartpole, its preset", r"b_\$1, its preset"]
    assert [text.get_text() for text in differences.texts] == ["better"] * 3
    ends = [*records[0].against_sb3["equal"].difference[1:]]
    bounds = [line.get_xdata() for line in differences.get_lines() if list(line.get_xdata()) == ends]
    assert len(bounds) == 3
    iqm = [line.get_xdata()[0] for line in scores.get_lines() if len(line.get_xdata()) == 1]
    assert iqm == pytest.approx([240 / 480, 100 / 480] * 3)  # of 260 and 120
    assert scores.get_xlim()[0] <= 0 < 1 <= scores.get_xlim()[1]


def test_element_escapes_text_and_attributes_but_no_markup():
    inner = element("b", "<&>")
    assert element("p", inner, '"', title='"<') == '<p title="&quot;&lt;"><b>&lt;&amp;&gt;</b>\n&quot;</p>\n'
    assert "<td>&lt;i&gt;</td>" in table(["", "x"], [["row", "<i>"]])


@pytest.mark.parametrize("exists", [True, False])
def test_directory_without_a_comparison_is_refused(tmp_path, exists: bool):
    directory = tmp_path / "empty"
    if exists:
        (directory / "returns").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"^.*empty: has neither a comparison in returns/ nor parity.csv; `graftwork"):
        write_report(directory)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "columns must be check,env,.*, got a,b"),
        (PARITY + "dqn,CartPole-v1,3\n", "line 4 is no row of a check"),
        (PARITY.replace("13,weights", "13,weights,7"), "line 3 is no row of a check"),
        (PARITY.replace(",0.0,equal", ",0.0"), "line 2 is no row of a check"),
        (PARITY.replace("9500,13", "many,13"), "line 3 is no row of a check"),
        (PARITY.replace("differs", "equal"), "line 3 says equal, but its numbers say differs"),
        (PARITY + '"', "is no table"),
    ],
)
def test_damaged_parity_file_is_refused_before_anything_is_written(tmp_path, text: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        report(tmp_path, comparison(), parity=text)
    assert "parity.csv" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parity.csv", "returns"]


@pytest.mark.parametrize(
    ("file", "old", "new", "text"),
    [
        (
            ".json",
            '"verdict": "better"',
            '"verdict": "equivalent"',
            "against_sb3.equal.verdict=equivalent, now better by",
        ),
        (".json", '"seeds": 5', '"seeds": 20', "results.equal.seeds=20, now 5 by the rows of dqn-cartpole.csv"),
        (".json", '"mean": 260.0', '"mean": 260.1', "results.equal.mean=260.1, now 260.0 by"),
        (".csv", "equal,3,4000,270.0", "equal,3,4000,271.0", "results.equal."),
        (".csv", "\nsb3,4,4000,140.0", "\nsb3,7,4000,140.0", "sb3, seed 4 is not in dqn-cartpole.csv"),
    ],
)
def test_result_that_its_rows_do_not_come_to_is_refused(file, old, new, text, tmp_path):
    write(tmp_path / "returns", comparison())
    path = tmp_path / f"returns/dqn-cartpole{file}"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        write_report(tmp_path)
    assert text in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["returns"]


def test_results_of_other_sides_than_there_are_are_refused(tmp_path):
    altered = comparison().model_copy(update={"against_sb3": {}})
    with pytest.raises(ValueError, match=r"dqn-cartpole\.json: against_sb3\.equal=null, now \{"):
        report(tmp_path, altered)
