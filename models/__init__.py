"""Networks of the study, and the only place that loads or saves weights."""
