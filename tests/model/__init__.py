"""A model of the world around oCore: Hypothesis drives it, and looks whether what must always hold does."""
