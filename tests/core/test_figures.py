import numpy as np
import pandas as pd
import pytest
from PIL import Image

from utils.core import figures
from utils.core.figures import category_colours, new_figure, save_figure, shorten, show_or_say, write_title


def draw():
    figure, axes = new_figure()
    axes.plot([0, 1], [1, 0])
    axes.set_xlabel("x")
    return figure


def test_figures_are_saved_in_each_format_with_equal_bytes(tmp_path):
    for folder in ("a", "b"):
        paths = save_figure(draw(), tmp_path / folder, "plot", ("png", "pdf", "svg"), caveat="sample data")
        assert [path.name for path in paths] == ["plot.png", "plot.pdf", "plot.svg"]
    for kind in ("png", "pdf", "svg"):
        assert (tmp_path / "a" / f"plot.{kind}").read_bytes() == (
            tmp_path / "b" / f"plot.{kind}"
        ).read_bytes()
    assert len(list((tmp_path / "a").iterdir())) == 3


def red_pixels(path) -> int:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int(((pixels[..., 0] > 120) & (pixels[..., 1] < 60) & (pixels[..., 2] < 80)).sum())


def test_a_caveat_is_visible(tmp_path):
    plain, marked = draw(), draw()
    assert red_pixels(save_figure(plain, tmp_path, "plain", ("png",))[0]) == 0
    assert (
        red_pixels(save_figure(marked, tmp_path, "marked", ("png",), "random weights: " + "x " * 90)[0]) > 100
    )


@pytest.mark.parametrize(
    ("caveat", "foot"),
    [
        ("random weights: LPIPS; " + "a very long list of other things " * 9, "NOT A RESULT, see report"),
        ("sample data (planted scores)", "NOT A RESULT, see report"),
        ("computed in half precision", "WITH A CAVEAT, see report"),
    ],
)
def test_a_caveat_takes_one_short_line_and_stands_whole_in_the_file(tmp_path, caveat, foot):
    figure = draw()
    (path,) = save_figure(figure, tmp_path, "plot", ("png",), caveat)
    assert figure._supxlabel.get_text() == foot
    assert Image.open(path).text["Description"] == caveat
    (plain,) = save_figure(draw(), tmp_path, "plain", ("png",))
    assert "Description" not in Image.open(plain).text


def test_titles_are_broken_to_the_width_and_keep_their_own_breaks():
    figure = draw()
    write_title(figure, "one two three " * 8 + "\nlast")
    lines = figure.get_suptitle().splitlines()
    assert max(map(len, lines)) <= 11 * 6.4
    assert lines[-1] == "last"
    assert len(lines) == 3


def test_colours_are_stable_whatever_the_order():
    assert category_colours(["b", "a", "b"]) == category_colours(["a", "b"])
    many = category_colours([f"c{n}" for n in range(20)])
    assert len(many) == 20
    assert len(set(many.values())) == len(figures.PALETTE)


@pytest.mark.parametrize("length", [10, 11, 28])
def test_shortening_keeps_both_ends(length):
    text = "a_rather_long_subcategory_name_indeed"
    short = shorten(text, length)
    assert len(short) == length
    assert short[0] == "a"
    assert short[-1] == "d"
    assert shorten("short", length) == "short"


def test_without_a_display_the_place_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(figures, "has_display", lambda: False)
    with caplog.at_level("INFO", logger="memorability"):
        show_or_say([tmp_path / "a.png"])
    assert "no display here" in caplog.text
    assert str(tmp_path / "a.png") in caplog.text


def test_with_a_display_the_viewer_is_called_for_each(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(figures, "has_display", lambda: True)
    monkeypatch.setattr(figures.subprocess, "Popen", lambda command, **options: calls.append(command[-1]))
    show_or_say([tmp_path / "a.png", tmp_path / "b.png"])
    assert calls == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


def test_a_dollar_in_a_name_is_a_dollar(tmp_path):
    figure, axes = new_figure()
    axes.set_title("b$x_{$r.jpg, 5$ and \\alpha$")
    axes.set_yscale("log")
    axes.plot([1, 2], [0.01, 10], label="$\\frac{$")
    axes.legend()
    (path,) = save_figure(figure, tmp_path, "plot", ("png",))
    assert path.stat().st_size > 1000


@pytest.mark.parametrize(("losses", "label"), [([2.0, 0.05, 0.002], "0.01"), ([0.05, 0.03, 0.021], "0.03")])
def test_the_one_logarithmic_axis_is_labelled_in_plain_numbers(losses, label):
    from utils.pretraining.figures import draw_curve

    history = pd.DataFrame({"depth": 1, "epoch": [1, 2, 3], "psnr": [10.0, 12, 13], "loss": losses})
    figure = draw_curve(history.assign(best=[False, False, True]), 11.0, "model")
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[1].get_yticklabels(which="both")]
    assert label in labels
    assert not [text for text in labels if "$" in text]
