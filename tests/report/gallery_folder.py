"""An output folder with pictures of nine images, some with names that would be markup if anybody let them."""

import io

import numpy as np
import pandas as pd
from PIL import Image

from utils.core.contract import TABLES
from utils.core.tables import output_file, write_table
from utils.reconstruction.pairs import PAIR, pack_pairs

MODEL = "mem_vgg_autoencoder"
EVIL = 'animal/cat/<img src=x onerror="window.hacked=1">\'".jpg'
SCRIPT = "food/pizza/</script><script>window.hacked=2</script>.jpg"
HASH = "food/soup/50%25 #1?&image=a.jpg"
IDS = sorted([EVIL, SCRIPT, HASH, *(f"animal/cat/cat_{k}.jpg" for k in range(6))])
SIZE = 32


def fill(table: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Add the declared columns a test does not care about."""
    values = {"text": "", "int": 1, "float": 0.5, "bool": True}
    declared = TABLES[table]
    missing = [c for c in declared.columns if c.name not in frame and c.name not in declared.optional]
    frame = frame.assign(**{c.name: values[c.kind] for c in missing})
    return frame[[c.name for c in declared.columns if c.name in frame]]


def write(folder, table, frame, model=None):
    write_table(fill(table, frame), output_file(folder, table, model), table)


def colour(number):
    """The colour of an image; its reconstruction has the opposite."""
    return (20 * number, 255 - 20 * number, 90)


def pair(number):
    picture = Image.new("RGB", (2 * SIZE, SIZE), colour(number))
    picture.paste(tuple(255 - value for value in colour(number)), (SIZE, 0, 2 * SIZE, SIZE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def images():
    """The images with scores: memorability falls along IDS, mse rises."""
    frame = pd.DataFrame({"image_id": IDS})
    frame["category"] = [name.split("/")[0] for name in IDS]
    frame["subcategory"] = [name.split("/")[1] for name in IDS]
    frame["memorability"] = 0.9 - 0.1 * np.arange(len(IDS))
    frame["mse"] = 0.01 * np.arange(1, len(IDS) + 1)
    frame["split"] = ["test", "train", "val"] * 3
    return frame


def write_study(folder):
    """Tables, pairs of pictures, and attribution maps of the test images."""
    frame = images()
    write(folder, "splits", frame)
    write(folder, "test_loss", frame, MODEL)
    nearest = frame.assign(nearest_image_id=IDS[1:] + IDS[:1], distinctiveness=np.linspace(-1, 1, len(IDS)))
    write(folder, "distinctiveness", nearest, MODEL)
    write(folder, "mlp_predictions", frame.assign(model=MODEL, prediction=0.5))
    write(folder, "image_features", frame.assign(edge_density=0.2))
    test = frame[frame["split"] == "test"]
    write(folder, "ig", test, MODEL)
    pack_pairs(
        ({"image_id": name, PAIR: pair(number)} for number, name in enumerate(IDS)),
        folder / f"pairs_{MODEL}.zip",
    )
    maps = np.zeros((len(test), SIZE, SIZE), np.float16)
    maps[:, :16], maps[:, 16:] = 2.0, -1.0
    np.save(folder / f"ig_{MODEL}.npy", maps)
