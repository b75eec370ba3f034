"""What runs batches: this process and its children, or a Ray cluster."""
