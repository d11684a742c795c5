"""The demo: drawn invoices, simulated upstream APIs, and the runner that shows the gateway."""
