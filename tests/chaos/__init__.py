"""Everything that may die is killed, at every step and inside every side effect, and what is left is looked at from
outside. `make chaos N=...` runs more of it."""
