"""Moving a latent code so that its predicted score changes, with the controls that say whether that means anything."""
