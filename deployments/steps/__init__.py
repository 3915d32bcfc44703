"""The steps of a deployment, a module each."""
