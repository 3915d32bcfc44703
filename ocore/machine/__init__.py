"""The machine that the portal runs on: what must be installed and running there, and how it gets so."""
