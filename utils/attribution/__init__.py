"""Which pixels a predicted score rests on: Integrated Gradients, checks of them, pictures."""
