"""What is deployed around the gateway: a demo, a Triton model repository."""
