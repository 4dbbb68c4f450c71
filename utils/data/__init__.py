"""Images and their memorability scores: finding, reading, preprocessing, splitting; the embedded sample."""
