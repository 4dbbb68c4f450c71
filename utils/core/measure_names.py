"""The measures of distinctiveness: their names and meanings, for the tables, the stage and the report."""

WITHIN = "_within_category"  # appended to a measure's name when it compares images of one category alone
MEASURES = {
    "nearest_euclidean": "Euclidean distance to the nearest other code (the paper's, before z-scoring)",
    "mean_k_euclidean": "mean Euclidean distance to the K nearest other codes",
    "nearest_cosine": "cosine distance to the nearest other code by that distance",
    "mean_k_cosine": "mean cosine distance to the K nearest other codes by that distance",
    "centroid": "Euclidean distance to the mean code, the image included",
    "mahalanobis": "Mahalanobis distance to the mean code, under Ledoit and Wolf's shrunk covariance",
    "summed_similarity_unit": "minus the log of the summed similarity exp(-d) to all other codes (GCM, c = 1)",
    "summed_similarity_median": "minus the log of the summed similarity exp(-d / m), m the median distance (GCM, c = 1/m)",
    "density_median": "minus the log of the mean Gaussian kernel exp(-d^2 / 2h^2) to all other codes, h the median distance",
    "density_half_median": "the same with h half the median distance",
    "local_outlier_factor": "local outlier factor of 20 neighbours; 1 is as dense as its neighbours",
    "negative_dot_product": "minus the mean dot product with all other codes, not centred",
}
