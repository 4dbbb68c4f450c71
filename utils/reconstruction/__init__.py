"""How badly a network reconstructs an image: losses, fine-tuning, their correlation with memorability."""
