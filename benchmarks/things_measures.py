"""THINGS concepts: the sign of distinctiveness by measure, against the values recorded beside this script's results.

Reads a copy of the public repository marrenj/CLIP-HBA-Mem (https://github.com/marrenj/CLIP-HBA-Mem): the 66 similarity
dimensions of 1,854 concepts and the corrected recognition of 26,107 images. Writes codes, index and scores, runs
`latent_analysis.py --codes --measure all` on them, and exits with 1 if a rho differs by more than 0.001.

    python benchmarks/things_measures.py CLIP-HBA-Mem --output-path things_output
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 0.001
# computed with scipy and scikit-learn alone, the whole distance matrix in memory
EXPECTED = {
    "nearest_euclidean": -0.0859,
    "nearest_cosine": -0.0849,
    "mean_k_euclidean": -0.0914,
    "mahalanobis": -0.0387,
    "local_outlier_factor": 0.1433,
    "centroid": 0.1572,
    "negative_dot_product": 0.2463,
    "summed_similarity_unit": -0.0866,
    "summed_similarity_median": 0.1206,
}


def prepare(repository: Path, output: Path) -> tuple[Path, Path, Path]:
    """Write the concepts' codes, their index, and the mean corrected recognition of each concept's images."""
    data = repository / "CLIP-HBA" / "Data"
    codes = pd.read_csv(data / "spose_embedding66d_rescaled.csv", index_col=0)
    images = pd.read_csv(data / "THINGS_Memorability_Scores.csv")
    images["concept"] = images["file_path"].str.split("/").str[1]  # images/<concept>/<file>
    concept_of = images.set_index("image_name")["concept"]
    output.mkdir(parents=True, exist_ok=True)
    paths = output / "things.npy", output / "things_index.csv", output / "things_scores.csv"
    np.save(paths[0], codes.drop(columns="image_name").to_numpy())
    pd.DataFrame({"image_id": codes["image_name"].map(concept_of)}).to_csv(paths[1], index=False)
    scores = images.groupby("concept")["cr"].mean().rename_axis("path").rename("score")
    scores.reset_index().to_csv(paths[2], index=False)
    return paths


def main() -> int:
    """Prepare, run the stage, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repository", type=Path, help="folder with a copy of marrenj/CLIP-HBA-Mem")
    parser.add_argument("--output-path", type=Path, default=Path("things_output"))
    args = parser.parse_args()
    codes, index, scores = prepare(args.repository, args.output_path)
    flags = ["--codes", codes, "--codes-index", index, "--scores-csv", scores, "--measure", "all"]
    command = [sys.executable, ROOT / "latent_analysis.py", *flags, "--output-path", args.output_path]
    subprocess.run(list(map(str, command)), check=True)
    table = pd.read_csv(args.output_path / "distinctiveness_correlations.csv", keep_default_na=False)
    found = pd.to_numeric(table[table["held_constant"] == ""].set_index("measure")["rho"])
    result = pd.DataFrame({"expected": EXPECTED, "found": found.reindex(list(EXPECTED))})
    result["difference"] = result["found"] - result["expected"]
    print(result.to_string(float_format="%.4f"))
    return int(not (result["difference"].abs() <= TOLERANCE).all())


if __name__ == "__main__":
    sys.exit(main())
