"""The inbound dialects: twin files with the same names, pure functions from bytes to bytes."""
