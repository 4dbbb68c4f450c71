"""The study as a whole: every test of every stage, and which of them hold over all of them."""

from utils.core.declarations.columns import Table, boolean, estimate, interval, real, text

TABLES: dict[str, Table] = {
    "study_findings": Table(
        "study_findings.csv",
        "python run_pipeline.py",
        "Every test of every table that has a p-value, and which of them are findings once it is counted how many there are. "
        "Families of tests are those over which q was taken; they are chosen first (Simes' p, Benjamini-Hochberg), then the "
        "tests in them (Benjamini & Bogomolov 2014), apart for claims about memorability and for all others. Made anew "
        "with the report.",
        (
            text("stage", "script that wrote the table"),
            text("table", "file with the row that the test is in"),
            text("family", "the claim: tests over which q was taken"),
            text(
                "about",
                "memorability: a claim about people's scores, which is false when these are dealt at random; pictures: about "
                "pictures, codes, maps and predicted scores with each other",
            ),
            text("model", "file stem of the checkpoint; empty where none is meant", nullable=True),
            text("what", "measure, feature, predictor or difference that is tested"),
            text("target", "what it is tested against: memorability, or what the claim is about"),
            estimate("estimate", "rho, difference, slope, share or gain"),
            *interval("its 95 % interval"),
            real("p", "p-value, cluster-robust where images have clusters"),
            real("q", "Benjamini-Hochberg q inside the family"),
            real(
                "q_study",
                "smallest level at which the test holds over the study; never below q. The primary hypothesis is not judged by it",
            ),
            text("role", "primary (the one hypothesis that was named beforehand) or exploratory"),
            boolean(
                "finding",
                "primary: p < 0.05 and an interval that leaves out 0; exploratory: q_study < 0.05",
            ),
        ),
        key=("table", "family", "model", "what"),
    ),
}
