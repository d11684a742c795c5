"""The description of all calls, as data."""
