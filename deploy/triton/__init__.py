"""A real Triton for the demo and the tests: its launcher, and the models that read invoices."""
