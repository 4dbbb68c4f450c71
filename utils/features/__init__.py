"""Colour, texture, structure and scene of an image as numbers, and what they have to do with memorability."""
