"""Pictures of curves: what is drawn, and that it can be."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from auricle.core.errors import UsageError
from auricle.dashboard.curves import Curves
from auricle.dashboard.plot import draw, panels, save_plot, svg

STEPS = range(1, 401)
LONG = Curves("long", loss={step: 5.0 / step for step in STEPS}, learning_rate=dict.fromkeys(STEPS, 1e-3))
SHORT = Curves("_odd $name$", loss={1: 2.0, 2: float("nan"), 3: 1.0}, eval_loss={"dev": {3: 1.5}},
               wer={"dev": {3: 0.5}, "test": {3: 0.25}})


def drawn(panel):
    axes = Figure().subplots()
    draw(axes, panel)
    return axes


def test_only_what_is_there_gets_a_chart():
    assert [panel.title for panel in panels([LONG])] == ["Loss", "Learning rate"]
    assert [panel.title for panel in panels([SHORT])] == ["Loss", "Word error rate"]
    assert [panel.title for panel in panels([LONG, SHORT])] == ["Loss", "Word error rate", "Learning rate"]


def test_word_error_rates_are_in_per_cent_and_axes_have_units():
    axes = drawn(panels([SHORT])[1])
    assert [list(line.get_ydata()) for line in axes.get_lines()] == [[50.0], [25.0]]
    assert axes.get_ylabel() == "WER (%)"


def test_the_legend_names_each_run_even_with_an_underscore_and_dollars():
    names = [text.get_text() for text in drawn(panels([LONG, SHORT])[0]).get_legend().get_texts()]
    assert [name.strip("\u200a").replace("\\", "") for name in names] == [
        "long, training", "_odd $name$, training", "_odd $name$, dev, evaluation"]


def test_an_onset_is_a_vertical_line_with_its_step_and_of_several_runs_with_its_name():
    clicked = replace(LONG, name="$x", onsets=(1500,))
    mark = drawn(panels([clicked])[0]).get_lines()[-1]
    assert (list(mark.get_xdata()), mark.get_label()) == ([1500, 1500], "alignment onset, step 1,500")
    mark = drawn(panels([SHORT, clicked])[0]).get_lines()[-1]
    assert mark.get_label() == r"\$x, alignment onset, step 1,500"
    assert mark.get_color() == drawn(panels([SHORT, clicked])[0]).get_lines()[-2].get_color()


def test_a_wide_loss_is_logarithmic_and_a_narrow_one_is_not():
    assert drawn(panels([LONG])[0]).get_yscale() == "log"
    assert drawn(panels([SHORT])[0]).get_yscale() == "linear"
    assert drawn(panels([LONG])[1]).get_yscale() == "linear"


def test_a_long_loss_has_a_running_mean_over_its_rows():
    raw, mean = drawn(panels([LONG])[0]).get_lines()
    assert len(raw.get_xdata()) == 400
    assert len(mean.get_xdata()) == len(mean.get_ydata()) == 393
    assert mean.get_ydata()[0] == pytest.approx(sum(5.0 / step for step in range(1, 9)) / 8)


def test_runs_differ_in_colour_and_a_ninth_in_dashes():
    curves = [Curves(f"run{index}", loss={1: 1.0, 2: 1.0}) for index in range(9)]
    looks = {(line.get_color(), line.get_linestyle()) for line in drawn(panels(curves)[0]).get_lines()}
    assert len(looks) == 9


def test_a_picture_of_several_runs_is_written(tmp_path):
    save_plot([LONG, SHORT], tmp_path / "new" / "curves.png")
    height, width, _ = imread(tmp_path / "new" / "curves.png").shape
    assert (width, height) == (1350, 1425)


def test_a_suffix_that_is_no_picture_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match=r"'.docx' is no picture format; expected one of: .*\.png"):
        save_plot([LONG], tmp_path / "curves.docx")


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        save_plot([LONG], tmp_path / "file" / "curves.png")


def test_svg_is_well_formed_scales_and_takes_the_pages_colours():
    element = ET.fromstring(svg(panels([SHORT])[0]))
    assert "width" not in element.attrib
    assert "viewBox" in element.attrib
    text = ET.tostring(element, encoding="unicode")
    assert "currentColor" in text
    assert "#123456" not in text


def test_a_name_with_markup_stays_text_in_svg():
    element = ET.fromstring(svg(panels([Curves("<script>&amp $x$", loss={1: 1.0, 2: 1.0})])[0]))
    assert any(node.text == "<script>&amp $x$, training" for node in element.iter())
