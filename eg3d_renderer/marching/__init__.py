"""Rays through an identity's planes: where to sample, what is there, what a pixel sees."""
