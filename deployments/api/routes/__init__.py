"""The API's operations, by what they are about. Each asks its caller first whether it may."""
