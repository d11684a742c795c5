"""The kinds of upstream. Each file speaks one remote API and yields the gateway's events."""
