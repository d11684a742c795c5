"""What watches the gateway: a dashboard, rules that alert, and what to do when they do."""
