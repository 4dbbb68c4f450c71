"""An autoencoder from nothing: training, growing, its rival PCA."""
