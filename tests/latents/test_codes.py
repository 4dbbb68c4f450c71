import numpy as np
import pandas as pd
import pytest

from utils.core.errors import UserError
from utils.core.tables import output_file, write_table
from utils.latents.codes import check_same_images, latent_file, latent_name, open_latents, row_checksums

SHA = "0123456789abcdef" * 4


def write_latents(folder, codes, name="net", sha=SHA, ids=None, layer="conv5", pool="none", image_size=64):
    """Write codes as latent_analysis.py does; return the matrix's path."""
    ids = ids or [f"animal/bear/{row:04d}.jpg" for row in range(len(codes))]
    table = pd.DataFrame({"image_id": ids}).assign(
        layer=layer,
        pool=pool,
        image_size=image_size,
        encoder_sha256=sha[:16],
        crc32=row_checksums(codes),
    )
    write_table(table, output_file(folder, "latents", name), "latents")
    np.save(latent_file(folder, name), codes)
    return latent_file(folder, name)


@pytest.fixture
def codes():
    return np.random.default_rng(0).random((50, 12), dtype=np.float32)


def test_opens_what_was_written_as_a_read_only_map(tmp_path, codes):
    write_latents(tmp_path, codes)
    latents = open_latents(tmp_path, "net", {"stem": "net", "sha256": SHA})
    assert isinstance(latents.matrix, np.memmap)
    assert not latents.matrix.flags.writeable
    assert np.array_equal(latents.matrix, codes)
    assert latents.image_ids[3] == "animal/bear/0003.jpg"
    assert (latents.layer, latents.pool, latents.image_size) == ("conv5", "none", 64)


def test_float16_is_kept_as_it_is(tmp_path, codes):
    write_latents(tmp_path, codes.astype(np.float16))
    assert open_latents(tmp_path, "net").matrix.dtype == np.float16


def test_names_of_other_layers_never_meet_the_default_one():
    assert latent_name("net") == "net"
    names = {
        latent_name("net", layer, pool) for layer in ("conv4", "conv5") for pool in ("none", "avg", "max")
    }
    assert len(names) == 6
    assert "net@conv4-avg" in names


def refusal(folder, **options):
    with pytest.raises(UserError) as caught:
        open_latents(folder, "net", **options)
    return str(caught.value)


def test_missing_files_name_the_command(tmp_path, codes):
    assert "latents_net.csv is missing" in refusal(tmp_path)
    write_latents(tmp_path, codes).unlink()
    message = refusal(tmp_path)
    assert "latents_net.npy is missing" in message
    assert "python latent_analysis.py --calculate-latents" in message


@pytest.mark.parametrize("size", [0, 5, 200, 128 + 50 * 12 * 4 - 1])
def test_a_matrix_cut_short_is_refused(tmp_path, codes, size):
    path = write_latents(tmp_path, codes)
    path.write_bytes(path.read_bytes()[:size])
    message = refusal(tmp_path)
    assert "latents_net.npy" in message
    assert f"{size:,} bytes" in message
    assert "cut short" in message


def test_a_matrix_of_another_length_is_refused(tmp_path, codes):
    np.save(write_latents(tmp_path, codes), codes[:-1])
    message = refusal(tmp_path)
    assert "has 49 rows" in message
    assert "latents_net.csv names 50 images" in message


def test_a_matrix_of_another_kind_is_refused(tmp_path, codes):
    np.save(write_latents(tmp_path, codes), codes.astype(int))
    assert "found int64 of shape (50, 12)" in refusal(tmp_path)


def test_a_swapped_matrix_is_refused_though_its_shape_fits(tmp_path, codes):
    np.save(write_latents(tmp_path, codes), codes[::-1])
    message = refusal(tmp_path)
    assert "checksums" in message
    assert "latents_net.csv" in message


def test_another_encoder_is_refused_naming_both(tmp_path, codes):
    write_latents(tmp_path, codes)
    message = refusal(tmp_path, encoder={"stem": "mem_vgg", "sha256": "f" * 64})
    assert "0123456789abcdef" in message
    assert "mem_vgg has ffffffffffffffff" in message


def test_another_image_list_is_refused_naming_both(tmp_path, codes):
    write_latents(tmp_path, codes)
    latents = open_latents(tmp_path, "net")
    check_same_images(latents, reversed(latents.image_ids), "scores.csv")
    with pytest.raises(UserError) as caught:
        check_same_images(
            latents, [*latents.image_ids[1:], "food/cake/1.jpg", "food/cake/2.jpg"], "scores.csv"
        )
    message = str(caught.value)
    assert "latents_net.npy" in message
    assert "2 only in scores.csv, e.g. food/cake/1.jpg" in message
    assert "1 only in latents_net.npy, e.g. animal/bear/0000.jpg" in message


def test_mixed_layers_in_one_table_are_refused(tmp_path, codes):
    path = write_latents(tmp_path, codes).with_suffix(".csv")
    path.write_text(path.read_text().replace("conv5", "conv4", 1))
    assert "column layer must be the same in every row, found conv4, conv5" in refusal(tmp_path)
