import torch
from conftest import PROJECT_ROOT

from models.builtin import WEIGHTS_FOLDER, builtin_autoencoder, builtin_head
from models.checkpoints import load_autoencoder, load_mlp
from models.score_network import ScoreNetwork

MOST_BYTES = 12 * 2**20


def test_what_ships_loads_strictly_and_says_what_it_is():
    model, meta = load_autoencoder(builtin_autoencoder(), arch="vgg16", width=0.25)
    made = meta["pretraining"]
    assert (made["split"], made["pictures"], made["held_out"]) == ("train", 1579, 264)
    assert meta["caveats"] == []
    assert made["held_out_psnr"] > 24
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    head, about = load_mlp(builtin_head(), meta)  # refused if it was trained on another file
    assert (about["dataset"], about["image_size"], about["caveats"]) == ("LNSIM", meta["image_size"], [])
    assert len(about["training_scores"]) == 1579
    size = meta["image_size"]
    with torch.inference_mode():
        scores = ScoreNetwork(model.encoder, head)(torch.rand(2, 3, size, size))
    assert scores.shape == (2,)
    assert ((scores > 0) & (scores < 1)).all()


def test_it_is_a_trained_network():
    """A picture with edges and colours comes back better than as its mean colour."""
    model, meta = load_autoencoder(builtin_autoencoder())
    from skimage.data import astronaut, coffee
    from skimage.transform import resize

    for picture in (astronaut(), coffee()):
        square = resize(picture[:400, :400], (meta["image_size"],) * 2, anti_aliasing=True)
        image = torch.from_numpy(square.transpose(2, 0, 1)).float()[None]
        with torch.inference_mode():
            error = (model(image) - image).square().mean()
        assert error < 0.25 * (image - image.mean((2, 3), keepdim=True)).square().mean()


def test_the_weights_are_small_and_have_a_card():
    files = [path for path in WEIGHTS_FOLDER.iterdir() if path.suffix == ".pth"]
    assert {path.name for path in files} >= {builtin_autoencoder().name, builtin_head().name}
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    card = (WEIGHTS_FOLDER / "README.md").read_text(encoding="utf-8")
    for path in files:
        assert path.name in card
    assert "python benchmarks/model_card.py --data-dir" in card
    assert "!models/weights/*.pth" in (PROJECT_ROOT / ".gitignore").read_text()
