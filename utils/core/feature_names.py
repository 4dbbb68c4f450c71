"""The features of an image: their names, units and meanings."""

from __future__ import annotations

from typing import NamedTuple

GROUPS = ("colour", "texture", "structure", "composition", "faces")
ALL_GROUPS = (*GROUPS, "scene")
DEFAULT_GROUPS = tuple(
    group for group in ALL_GROUPS if group != "faces"
)  # looking for faces takes longest, and errs
RELEASED = "released"
"""The group of what the authors' script computes, beside ours (``--recipe released``)."""


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
_ONE_GREY = "the picture has only one grey level"
_NO_EDGE = "the picture has no edges"
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
        _ONE_GREY,
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
    Feature(
        "fourier_slope",
        "composition",
        "log power per log frequency, about -4..0",
        "fall of the spectrum, 10 to 256 cycles per longer side (Redies et al. 2008); smaller is smoother",
        f"{_ONE_GREY} or a longer side below 41 px",
    ),
    Feature(
        "fractal_dimension",
        "composition",
        "0..2",
        "box-counting dimension of the border between lighter and darker than the mean (Spehar et al. 2003); larger "
        "is more ragged",
        f"{_ONE_GREY} or is narrower than 64 px",
    ),
    Feature(
        "symmetry_left_right",
        "composition",
        "-1..1",
        "correlation of lightness with its mirror image (Mayer & Landwehr 2018); larger is more symmetric",
        _ONE_GREY,
    ),
    Feature(
        "symmetry_up_down", "composition", "-1..1", "the same, with the picture turned upside down", _ONE_GREY
    ),
    Feature(
        "edge_orientation_entropy",
        "composition",
        "bits, 0..4.6",
        "Shannon entropy of the directions of the strongest edges (Redies et al. 2017); larger is more even",
        f"{_NO_EDGE} or is narrower than 16 px",
    ),
    Feature(
        "phog_self_similarity",
        "composition",
        "0..1",
        "likeness of the parts' gradient directions to the whole's (Braun et al. 2013); larger is more alike",
        f"{_NO_EDGE} or is narrower than 16 px",
    ),
    Feature(
        "saliency_entropy",
        "composition",
        "bits, 0..12",
        "Shannon entropy of the spectral-residual saliency map (Hou & Zhang 2007); smaller where one thing stands out",
        _ONE_GREY,
    ),
    Feature(
        "face_count", "faces", "faces", "upright frontal faces found by a cascade; misses and errs at times"
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

_THEIRS = "as in the authors' released script, from the 224 px crop"
RELEASED_FEATURES = (
    Feature(
        "released_colour_diversity",
        RELEASED,
        "bits, 0..8",
        f"Shannon entropy of the 8-bit L, A and B values thrown together, {_THEIRS}; compare colour_diversity",
    ),
    Feature("released_lab_l_mean", RELEASED, "0..255", f"mean of 8-bit L, {_THEIRS}; compare lab_l_mean"),
    Feature("released_lab_a_mean", RELEASED, "0..255", f"mean of 8-bit A, 128 is grey, {_THEIRS}"),
    Feature("released_lab_b_mean", RELEASED, "0..255", f"mean of 8-bit B, 128 is grey, {_THEIRS}"),
    Feature(
        "released_texture_contrast",
        RELEASED,
        "squared grey levels, 0..65025",
        f"GLCM contrast of horizontal neighbours, red and blue exchanged, {_THEIRS}; compare glcm_contrast",
    ),
    Feature(
        "released_texture_energy",
        RELEASED,
        "0..1",
        f"GLCM energy of horizontal neighbours, red and blue exchanged, {_THEIRS}; compare glcm_energy",
    ),
    Feature(
        "released_clutter_score",
        RELEASED,
        "bits, 0..15.6",
        f"Shannon entropy of distinct Sobel magnitudes, {_THEIRS}; compare edge_density",
    ),
    Feature(
        "released_object_count",
        RELEASED,
        "objects",
        "boxes in the 224 px crop whatever their score; compare object_count",
    ),
    Feature(
        "released_object_area_mean",
        RELEASED,
        "squared px of the 224 px crop",
        "mean area of those boxes, 0 without one; compare object_area_mean",
    ),
    Feature(
        "released_object_classes", RELEASED, "classes", "distinct classes among them; compare object_classes"
    ),
)

ALL_FEATURES = {feature.name: feature for feature in (*FEATURES, *SCENE_FEATURES, *RELEASED_FEATURES)}
"""Every feature by name, in the order of the table."""
