import numpy as np
import pandas as pd
import pytest

from utils.prediction.curves import curve_table
from utils.prediction.figures import largest_misses, roc_and_precision_recall

METRICS = pd.DataFrame(
    [
        {"predictor": "mlp", "metric": name, "value": 0.7, "ci_low": 0.6, "ci_high": 0.8}
        for name in ("auc", "ap")
    ]
)


@pytest.mark.parametrize(("below", "band"), [(14, False), (15, True)])
def test_bands_need_images_on_both_sides_and_say_so(below, band):
    above = np.arange(40) >= below
    curves = curve_table(above, np.random.default_rng(0).uniform(size=40) + above, 50, 0)
    figure = roc_and_precision_recall(curves, METRICS, above)
    assert [bool(axes.collections) for axes in figure.axes] == [band, band]
    title = figure.get_suptitle()
    assert f"40 test images, {40 - below} of them are" in title
    assert ("no bands: fewer than 15" in title) == (not band)
    guess = figure.axes[1].lines[-1]
    assert guess.get_ydata() == pytest.approx([(40 - below) / 40] * 2)


def test_misses_are_told_to_the_third_digit_and_out_of_how_many():
    misses = pd.DataFrame({"image_id": ["a/b.jpg"], "memorability": [0.5012], "prediction": [0.5046]})
    figure = largest_misses(misses, [np.zeros((4, 4, 3), np.uint8)], 1200)
    assert figure.axes[0].get_title() == "b.jpg\npredicted 0.505\nobserved 0.501"
    assert "1,200 test images" in figure.get_suptitle()
