"""The features of an image: their names, units and meanings."""

from __future__ import annotations

from typing import NamedTuple

GROUPS = ("colour", "texture", "structure")
ALL_GROUPS = (*GROUPS, "scene")


class Feature(NamedTuple):
    """One feature column.

    Attributes:
        name: of the column.
        group: what `--features` selects.
        unit: of its values.
        meaning: what it says, with its direction.
        undefined: when a picture has no such value and the cell is empty; never, if this is empty.
    """

    name: str
    group: str
    unit: str
    meaning: str
    undefined: str = ""


_NO_HUE = "the picture has no hue: mean chroma below 1/255, or hues that cancel out"
_NO_PAIR = "the picture has fewer than two pixels"
_NO_WINDOW = "the picture is less than 3 px high or wide"
_NO_GLCM = "256 grey levels, distance 1 px, mean over 0, 45, 90 and 135 degrees"
FEATURES = (
    Feature("lab_l_mean", "colour", "CIELAB L, 0..100", "mean lightness; larger is lighter"),
    Feature("lab_l_std", "colour", "CIELAB L", "spread (standard deviation over pixels) of lightness"),
    Feature("lab_a_mean", "colour", "CIELAB A, -86..98", "mean of A; below 0 green, above red"),
    Feature("lab_a_std", "colour", "CIELAB A", "spread of A over pixels"),
    Feature("lab_b_mean", "colour", "CIELAB B, -108..94", "mean of B; below 0 blue, above yellow"),
    Feature("lab_b_std", "colour", "CIELAB B", "spread of B over pixels"),
    Feature("hsv_hue_mean", "colour", "degrees, 0..360", "chroma-weighted circular mean of hue", _NO_HUE),
    Feature("hsv_hue_std", "colour", "degrees", "chroma-weighted circular spread of hue", _NO_HUE),
    Feature("hsv_saturation_mean", "colour", "0..1", "mean HSV saturation; larger is more saturated"),
    Feature("hsv_saturation_std", "colour", "0..1", "spread of HSV saturation over pixels"),
    Feature("hsv_value_mean", "colour", "0..1", "mean HSV value; larger is brighter"),
    Feature("hsv_value_std", "colour", "0..1", "spread of HSV value over pixels"),
    Feature("chroma_contrast_a", "colour", "CIELAB A", "95th minus 5th percentile of A"),
    Feature("chroma_contrast_b", "colour", "CIELAB B", "95th minus 5th percentile of B"),
    Feature(
        "colourfulness",
        "colour",
        "sRGB levels, 0 (grey) to about 200",
        "Hasler & Suesstrunk (2003), metric M3; larger is more colourful",
    ),
    Feature(
        "colour_diversity",
        "colour",
        "bits, 0..11.5",
        "Shannon entropy of the LAB histogram in cells of 10 (L) x 16 (A) x 16 (B); larger is more colours",
    ),
    Feature("grey_entropy", "texture", "bits, 0..8", "Shannon entropy of the 256-level grey histogram"),
    Feature(
        "glcm_contrast",
        "texture",
        "squared grey levels, 0..65025",
        f"mean squared difference of neighbours; {_NO_GLCM}; larger is rougher",
        _NO_PAIR,
    ),
    Feature(
        "glcm_energy",
        "texture",
        "0..1",
        f"root of the sum of squared co-occurrence probabilities; {_NO_GLCM}; larger is more uniform",
        _NO_PAIR,
    ),
    Feature(
        "glcm_homogeneity",
        "texture",
        "0..1",
        f"mean of 1 / (1 + squared difference of neighbours); {_NO_GLCM}; larger is smoother",
        _NO_PAIR,
    ),
    Feature(
        "glcm_correlation",
        "texture",
        "-1..1",
        f"correlation of neighbouring grey levels; {_NO_GLCM}; larger is smoother",
        "the picture has only one grey level",
    ),
    Feature(
        "edge_density",
        "structure",
        "share of pixels, 0..1",
        "clutter score: pixels on Canny edges (thresholds 100 and 200); larger is more cluttered",
        _NO_WINDOW,
    ),
    Feature(
        "sobel_entropy",
        "structure",
        "bits, 0..8.5",
        "Shannon entropy of the 3x3 Sobel magnitude in cells of 4; larger is more varied edges",
        _NO_WINDOW,
    ),
)

SCENE_FEATURES = (
    Feature(
        "object_count",
        "scene",
        "objects",
        "detected objects with at least the threshold's score (--min-score)",
    ),
    Feature("object_classes", "scene", "classes", "distinct classes among those objects"),
    Feature(
        "object_area_mean",
        "scene",
        "share of the image, 0..1",
        "mean box area of those objects",
        "there is no such object",
    ),
    Feature(
        "object_area_largest",
        "scene",
        "share of the image, 0..1",
        "largest box area of those objects",
        "there is no such object",
    ),
    Feature("person_present", "scene", "0 or 1", "1 if one of those objects is a person"),
    Feature("segment_classes", "scene", "classes", "foreground classes on at least 0.1 % of the pixels"),
    Feature("foreground_share", "scene", "share of pixels, 0..1", "pixels of any class but background"),
    Feature(
        "segment_entropy",
        "scene",
        "bits, 0..4.4",
        "Shannon entropy of the class shares, background included; 0 is one class only",
    ),
    Feature(
        "foreground_background_distance",
        "scene",
        "CIELAB units (CIE76)",
        "distance between the mean LAB colours of foreground and background",
        "there is no foreground or no background",
    ),
)
