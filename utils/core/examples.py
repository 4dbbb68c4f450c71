"""Three worked examples of each script's command line, with which its ``--help`` ends."""

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "autoencoder_pretrain": (
        (
            "python autoencoder_pretrain.py --data-dir pictures --width 0.25 --image-size 96 --minutes 30",
            "a compact network from any folder of pictures, in about half an hour",
        ),
        (
            "python autoencoder_pretrain.py --data-dir MemCat --split train --epochs 40",
            "only from the training images of splits.csv, so that the others stay unseen",
        ),
        (
            "python autoencoder_pretrain.py --sample --width 0.125 --image-size 32 --epochs 2",
            "a trial without data of your own, in seconds",
        ),
    ),
    "autoencoder_finetune": (
        (
            "python autoencoder_finetune.py --data-dir MemCat",
            "the paper's protocol: every image once, starting from the ImageNet checkpoint",
        ),
        (
            "python autoencoder_finetune.py --pretrained builtin --image-size 96 --loss mse --scores-csv mine.csv "
            "--data-dir pictures",
            "your own pictures and scores with the network in the box; no download",
        ),
        (
            "python autoencoder_finetune.py --loss lpips-sq ssim --learning-rate 1e-5 1e-4",
            "four models, each from the pretrained weights",
        ),
    ),
    "autoencoder_test": (
        (
            "python autoencoder_test.py --data-dir MemCat",
            "all losses, of every checkpoint in the output folder",
        ),
        (
            "python autoencoder_test.py --image-size 96 --losses mse mae ssim --data-dir pictures",
            "what needs no helper network, at the size of the network in the box",
        ),
        (
            "python autoencoder_test.py --model-names mem_vgg_autoencoder.pth --overwrite",
            "one checkpoint again from the start",
        ),
    ),
    "autoencoder_evaluation": (
        (
            "python autoencoder_evaluation.py --output-path ./output",
            "every loss of every model against memorability",
        ),
        (
            "python autoencoder_evaluation.py --table losses.csv --scores-csv mine.csv --data-dir pictures "
            "--output-path table_output",
            "losses that another program computed",
        ),
        (
            "python autoencoder_evaluation.py --cluster none --resamples 10000",
            "images taken as independent; more resamples",
        ),
    ),
    "latent_analysis": (
        (
            "python latent_analysis.py --calculate-latents --distinctiveness-analysis",
            "codes, and how far each lies from its nearest neighbour",
        ),
        (
            "python latent_analysis.py --distinctiveness-analysis --measure all --metric cosine",
            "every measure of distinctiveness, on codes that are there",
        ),
        (
            "python latent_analysis.py --encoder torchvision:resnet50 --layer all --data-dir pictures",
            "the layers of another encoder",
        ),
    ),
    "category_plot": (
        ("python category_plot.py", "everything the other stages wrote, by category"),
        (
            "python category_plot.py --categories animal food --measures memorability distinctiveness",
            "two categories, two measures",
        ),
        (
            "python category_plot.py --format svg --output-path ./output",
            "as vector graphics for a manuscript",
        ),
    ),
    "mlp_predict": (
        (
            "python mlp_predict.py --predict holiday/ 'new/*.jpg' --contact-sheet",
            "score pictures of your own; no data and no scores are needed",
        ),
        ("python mlp_predict.py --train --evaluate --n-splits 5", "train a head, judge it on five splits"),
        (
            "python mlp_predict.py --predict bear.jpg --explain",
            "a score, and which pixels it rests on",
        ),
    ),
    "model_interpretation_IG": (
        (
            "python model_interpretation_IG.py --save --limit 50 --check",
            "50 test images, with checks that the attributions can fail",
        ),
        (
            "python model_interpretation_IG.py --baseline black mean blur --steps 32",
            "how far the maps hang on the baseline",
        ),
        ("python model_interpretation_IG.py --display", "show what an earlier run drew"),
    ),
    "feature_analysis": (
        (
            "python feature_analysis.py --calculate-features --evaluate-features",
            "all features, and what they have to do with memorability",
        ),
        (
            "python feature_analysis.py --detector light --segmenter light --data-dir pictures",
            "with networks that a CPU finishes soon",
        ),
        (
            "python feature_analysis.py --calculate-features --features colour texture --region full",
            "numbers of colour and texture alone; no network",
        ),
    ),
    "memorability_steering": (
        ("python memorability_steering.py", "32 test images, three sizes of change"),
        (
            "python memorability_steering.py --limit 8 --psnr-budget 28 --judge none",
            "a quick look",
        ),
        (
            "python memorability_steering.py --judge other.pth --split val",
            "judged by another checkpoint, on validation images",
        ),
    ),
    "run_pipeline": (
        ("python run_pipeline.py --demo", "a small study that needs no data and no download"),
        (
            "python run_pipeline.py --data-dir pictures --scores-csv mine.csv --pretrained builtin --image-size 96 "
            "--losses mse mae ssim --weights available",
            "your own pictures and scores, all stages, no download",
        ),
        (
            "python run_pipeline.py --from-stage mlp_predict --extra mlp_predict='--search'",
            "the later stages, with further flags for one",
        ),
    ),
}
