"""Names that more than one room uses: architectures, layers, losses, splits, networks, columns, file suffixes."""

from pathlib import Path

DEFAULT_SCORE_COLUMN = "memorability_w_fa_correction"
DEFAULT_DATA_DIR = Path("MemCat")
DEFAULT_IMAGE_SIZE = 224  # px: side of the square the networks see
MAX_IMAGE_SIZE = 4096  # px: one image of it takes 4.3 GB at the full width's first block alone
ARCHITECTURES = ("vgg11", "vgg13", "vgg16", "vgg19")
DEFAULT_ARCHITECTURE = "vgg16"
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")  # blocks of the encoder, from the image to the code
POOLS = ("none", "avg", "max", "cls")  # over the positions of a layer
RECIPES = ("corrected", "released")  # the paper's text, or the authors' scripts
TRAIN, VALIDATION, TEST = SPLITS = ("train", "val", "test")
LOSSES = ("mse", "mae", "ssim", "ms-ssim", "lpips-vgg", "lpips-alex", "lpips-sq", "style")
STORED_LOSSES = ("1-lpips-vgg", "1-lpips-alex", "1-lpips-sq")  # as the authors' test script stores them
RIVALS = ("jpeg_bytes", "pixel_variance", "edge_energy", "pca_error")  # of a reconstruction error: no network
RIVAL_MODEL = "rivals"  # stands where the name of a network stands in tables of correlations
SPLIT_BY = ("image", "subcategory", "group", "source")
CLUSTERS = ("subcategory", "group", "none")  # what is resampled as a whole
HEADLINE_LOSS = "lpips-sq"  # the loss of the fine-tuning, chosen before looking, not the best one
DETECTORS = {"heavy": "fasterrcnn_resnet50_fpn", "light": "fasterrcnn_mobilenet_v3_large_320_fpn"}
SEGMENTERS = {"heavy": "deeplabv3_resnet101", "light": "lraspp_mobilenet_v3_large"}
IG_METHODS = ("gausslegendre", "riemann_middle", "riemann_trapezoid", "riemann_left", "riemann_right")
IG_BASELINES = ("black", "white", "mean", "blur", "uniform", "expected")
BASE_CHECKPOINT = "imagenet_vgg16_autoencoder.pth"
PRETRAINED_PREFIX = "pretrained_"  # of checkpoints from stage 0
SAMPLE_CAVEAT = "sample data (planted scores)"
CAVEAT_COLUMN = "caveat"
RUNS_FOLDER = "runs"  # in the output folder: who wrote what, and runs that did not end well
SHARDS_FOLDER = "shards"  # in the output folder: what runs need to go on, and nobody else
IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".webp",
        ".avif",
    }
    | {".heic", ".heif", ".ppm", ".pgm"}
)
HALF_PATTERN = r"half([12])_split(\d+)"  # columns with published split halves of a score


def half_columns(splits: int) -> list[tuple[str, str]]:
    """Return the names of the two columns of each published split of the responses in halves, splits from 1."""
    return [(f"half1_split{split:02d}", f"half2_split{split:02d}") for split in range(1, splits + 1)]
