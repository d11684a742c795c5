"""What the gateway costs, beside a bare proxy in the same run."""
