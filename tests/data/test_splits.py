"""Splits that keep together what belongs together."""

import numpy as np
import pandas as pd
import pytest
from conftest import dataset_args, make_picture

from utils.core.errors import UserError
from utils.core.tables import output_file, read_table
from utils.data.dataset import load_dataset
from utils.data.scores import read_scores
from utils.data.splits import load_splits, make_splits, split_units

SHARES = {"train": 0.6, "val": 0.1, "test": 0.3}


def grouped_table(sizes, seed=0, per_category=None):
    """Images in groups of the given sizes (1: no group), in two categories of two subcategories and two sources."""
    rng = np.random.default_rng(seed)
    groups = np.concatenate([[f"g{number}" if size > 1 else ""] * size for number, size in enumerate(sizes)])
    n = len(groups)
    return pd.DataFrame(
        {
            "image_id": [f"{number:05d}.jpg" for number in range(n)],
            "category": np.where(np.arange(n) % 2, "a", "b"),
            "subcategory": np.where(np.arange(n) % 4 < 2, "x", "y"),
            "source": np.where(np.arange(n) % 3, "web", "film"),
            "group": groups,
            "memorability": rng.uniform(size=n),
            "split": "",
        }
    )


def crossing(table, splits, column="group"):
    """Labels that stand in more than one split."""
    known = table[column] != ""
    counts = splits[known].groupby(table[column][known]).nunique()
    return list(counts.index[counts > 1])


@pytest.mark.parametrize("sizes", [[1, 2, 3, 4] * 100, [1] * 700 + [2] * 150, [8, 8, 4, 4, 4, 4, 3, 3, 2]])
@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_divided_and_the_shares_hold(sizes, seed):
    table = grouped_table(sizes, seed)
    splits = make_splits(table, seed)
    assert crossing(table, splits) == []
    shares = splits.value_counts(normalize=True)
    slack = max(sizes) / len(table)
    assert all(abs(shares[name] - share) <= slack for name, share in SHARES.items())
    assert make_splits(table, seed).equals(splits)


def test_another_seed_gives_another_split_of_groups():
    table = grouped_table([1, 2, 3, 4] * 30)
    assert not make_splits(table, 1).equals(make_splits(table, 0))
    few = grouped_table([8, 8, 4, 4, 4, 4, 3, 3, 2])
    assert len({tuple(make_splits(few, seed)) for seed in range(10)}) > 5


def test_small_groups_are_stratified_and_their_size_decides_nothing():
    table = grouped_table([1] * 600 + [2] * 200)
    splits = make_splits(table, 0)
    above = table["memorability"] > table["memorability"].median()
    single = table["group"] == ""
    for _, rows in table[single].groupby(["category", "subcategory", above]):
        shares = splits[rows.index].value_counts(normalize=True)
        assert all(abs(shares[name] - share) < 0.04 for name, share in SHARES.items())
    for part in (single, ~single):
        shares = splits[part].value_counts(normalize=True)
        assert all(abs(shares[name] - share) < 0.01 for name, share in SHARES.items())


def test_splits_without_groups_are_what_they_were():
    """By hash, so that a split made before groups were known is the one made since."""
    table = grouped_table([1] * 1000)
    splits = make_splits(table, 0)
    assert splits.value_counts().to_dict() == {"train": 600, "test": 300, "val": 100}
    assert "".join(splits.str[1][:40]) == EXPECTED_SECOND_LETTERS
    assert make_splits(table, 0, "image").equals(splits)
    assert make_splits(table.drop(columns=["group", "source"]), 0).equals(splits)


EXPECTED_SECOND_LETTERS = "erarrerarrerrrreererarerreerrrrrarrrreer"


def test_image_divides_groups_that_are_there():
    table = grouped_table([4] * 50)
    assert crossing(table, make_splits(table, 0, "image"))


@pytest.mark.parametrize("split_by", ["subcategory", "source"])
def test_subcategories_and_sources_are_held_out_whole(split_by):
    table = grouped_table([1] * 400)
    table["subcategory"] = [f"s{number % 20}" for number in range(400)]
    table["source"] = [f"o{number % 7}" for number in range(400)]
    splits = make_splits(table, 0, split_by)
    label = table["category"] + "/" + table["subcategory"] if split_by == "subcategory" else table["source"]
    assert splits.groupby(label).nunique().max() == 1
    assert set(splits) == set(SHARES)


def test_what_a_group_ties_to_a_subcategory_goes_with_it():
    table = grouped_table([1] * 40)
    table["category"] = "a"
    table["subcategory"] = [f"s{number % 8}" for number in range(40)]
    table.loc[[0, 1], "group"] = "tie"  # subcategories s0 and s1
    units = split_units(table, "subcategory")
    assert units[table["subcategory"] == "s0"].iloc[0] == units[table["subcategory"] == "s1"].iloc[0]
    assert units.nunique() == 7
    assert split_units(table, "group").nunique() == 39
    assert split_units(table, "image") is None
    assert split_units(table.assign(group=""), None) is None


def test_subcategories_of_one_name_in_two_categories_are_two():
    table = grouped_table([1] * 40)
    assert split_units(table, "subcategory").nunique() == 4


def test_every_split_gets_an_image_even_of_three_groups():
    for sizes in ([98, 2, 2], [2, 2, 2], [50, 50, 3]):
        for seed in range(5):
            assert set(make_splits(grouped_table(sizes), seed)) == set(SHARES)
    with pytest.raises(UserError, match="at least 3 sets of images .* by group; found 2"):
        make_splits(grouped_table([20, 20]), 0)


@pytest.mark.parametrize(
    ("split_by", "message"),
    [
        ("group", "--split-by group needs a group .*--group-column"),
        ("source", "--split-by source needs a source"),
        ("subcategory", "--split-by subcategory needs a subcategory"),
    ],
)
def test_nothing_to_split_by_is_one_clear_message(split_by, message):
    table = grouped_table([1] * 10).assign(source="", subcategory="")
    with pytest.raises(UserError, match=message):
        make_splits(table, 0, split_by)


def test_a_given_split_that_divides_groups_warns_or_stops(caplog):
    table = grouped_table([2] * 10)
    table["split"] = ["train", "test"] * 10
    with caplog.at_level("WARNING"):
        assert list(make_splits(table, 0)) == list(table["split"])
    assert "10 sets of images that belong together stand in more than one split" in caplog.text
    with pytest.raises(UserError, match="--split-by group asks to keep them together"):
        make_splits(table, 0, "group")
    caplog.clear()
    table["split"] = np.repeat(["train", "val", "test", "test", "train"], 4)
    assert list(make_splits(table, 0, "group")) == list(table["split"])
    assert not caplog.records


# ---------------------------------------------------------------------------------------- from tables


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(20):
        make_picture(number).save(folder / f"{number:02d}.jpg")
    rows = [f"{number:02d}.jpg,0.{number + 10},shot {number // 2},{'ab'[number % 2]}" for number in range(20)]
    (tmp_path / "scores.csv").write_text("path,score,photograph,source\n" + "\n".join(rows) + "\n")
    return folder


def arguments(pictures, **changes):
    root = pictures.parent
    return dataset_args(pictures, root / "out", scores_csv=root / "scores.csv", **changes)


def test_group_column_and_source_reach_the_data_set_and_splits_csv(pictures):
    plain = load_dataset(arguments(pictures))
    assert (plain.table["group"] == "").all()
    assert set(plain.table["source"]) == {"a", "b"}
    dataset = load_dataset(arguments(pictures, group_column="photograph"))
    assert list(dataset.table["group"][:3]) == ["shot 0", "shot 0", "shot 1"]
    splits = load_splits(dataset, pictures.parent / "out", 0)
    assert crossing(dataset.table, splits["split"]) == []
    written = read_table(output_file(pictures.parent / "out", "splits"), "splits")
    assert list(written["group"][:3]) == ["shot 0", "shot 0", "shot 1"]
    assert load_splits(dataset, pictures.parent / "out", 5).equals(splits)
    with pytest.raises(
        UserError, match="no column 'shot' to group images by.*found: path, score, photograph"
    ):
        load_dataset(arguments(pictures, group_column="shot"))


def test_an_old_split_that_divides_groups_is_refused(pictures):
    out = pictures.parent / "out"
    load_splits(load_dataset(arguments(pictures)), out, 0)
    assert "group" not in read_table(output_file(out, "splits"), "splits")
    with pytest.raises(
        UserError, match=r"divides \d+ sets of images that belong together by group, e.g. .*Delete"
    ):
        load_splits(load_dataset(arguments(pictures, group_column="photograph")), out, 0)
    kept = load_splits(load_dataset(arguments(pictures, group_column="photograph", split_by="image")), out, 0)
    assert len(kept) == 20


def test_dividing_groups_on_purpose_is_said(pictures, caplog):
    dataset = load_dataset(arguments(pictures, group_column="photograph", split_by="image"))
    with caplog.at_level("WARNING"):
        load_splits(dataset, pictures.parent / "out", 0)
    assert "--split-by image divides groups" in caplog.text


def test_memcats_source_column_is_read(mini_memcat, tmp_path):
    table, _ = read_scores(mini_memcat / "MemCat_data" / "memcat_image_data.csv")
    assert (table["source"] == "test").all()
    assert (table["group"] == "").all()


# ---------------------------------------------------------------------- a score table that changes


@pytest.fixture
def scored(tmp_path):
    """A folder of twenty pictures with their score table; returns the table's path."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(20):
        make_picture(number, 8, 8).save(folder / f"{number:02d}.png")
    scores = np.random.default_rng(0).uniform(size=20)
    pd.DataFrame({"path": [f"{n:02d}.png" for n in range(20)], "score": scores, "other": 1 - scores}).to_csv(
        folder / "scores.csv", index=False
    )
    return folder / "scores.csv"


def split(scored, output, seed=0, **changes):
    args = dataset_args(scored.parent, output, scores_csv=scored, **{"score_column": "score", **changes})
    output.mkdir(exist_ok=True)
    load_splits(load_dataset(args), output, seed)
    return (output / "splits.csv").read_bytes()


def edit_scores(scored, change):
    table = pd.read_csv(scored, dtype={"path": str})
    change(table)
    table.to_csv(scored, index=False)


@pytest.mark.parametrize("score", [0.02, 0.98])  # one side of the median and the other
def test_a_corrected_score_ends_where_a_new_run_ends(scored, tmp_path, score, caplog):
    before = split(scored, tmp_path / "out", seed=3)
    assert split(scored, tmp_path / "out", seed=4) == before  # its seed is that of its making
    edit_scores(
        scored, lambda table: table.__setitem__("score", table["score"].where(table.index != 7, score))
    )
    after = split(scored, tmp_path / "out", seed=4)
    assert after == split(scored, tmp_path / "fresh", seed=3)
    assert after != before
    assert "splits.csv: the score table or the images have changed since; it is split anew" in caplog.text
    caplog.clear()
    assert split(scored, tmp_path / "out") == after
    assert "anew" not in caplog.text


def test_pictures_that_come_and_go_end_where_a_new_run_ends(scored, tmp_path):
    split(scored, tmp_path / "out")
    picture = scored.parent / "04.png"
    picture.rename(tmp_path / "away.png")
    assert split(scored, tmp_path / "out") == split(scored, tmp_path / "fewer")
    (tmp_path / "away.png").rename(picture)
    assert split(scored, tmp_path / "out") == split(scored, tmp_path / "all")


def test_another_score_column_or_table_shares_the_split(scored, tmp_path):
    before = split(scored, tmp_path / "out")
    assert split(scored, tmp_path / "out", score_column="other") == before
    copy = scored.with_name("copy.csv")
    copy.write_text(scored.read_text())
    edit_scores(copy, lambda table: table.__setitem__("score", 1 - table["score"]))
    assert split(copy, tmp_path / "out") == before


def test_an_edited_split_stays_and_takes_the_scores_of_now(scored, tmp_path):
    split(scored, tmp_path / "out")
    path = tmp_path / "out" / "splits.csv"
    path.write_text(path.read_text().replace(",val", ",test", 1))
    edited = read_table(path, "splits")
    assert split(scored, tmp_path / "out") == path.read_bytes()
    edit_scores(scored, lambda table: table.__setitem__("score", table["score"].where(table.index != 7, 0.5)))
    split(scored, tmp_path / "out")
    now = read_table(path, "splits")
    assert now["split"].equals(edited["split"])
    assert now.set_index("image_id").at["07.png", "memorability"] == 0.5


@pytest.mark.parametrize("content", ["", "half", "image_id,split\n", None])
def test_a_damaged_split_or_record_is_made_again(scored, tmp_path, content):
    expected = split(scored, tmp_path / "out")
    path = tmp_path / "out" / "splits.csv"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    assert split(scored, tmp_path / "out") == expected
    (tmp_path / "out" / "shards" / "splits.json").write_text("[1]")
    assert split(scored, tmp_path / "out") == expected
