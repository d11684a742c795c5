"""Work that outlives its request: executions, what is kept of them, and who is told."""
