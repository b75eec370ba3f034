"""What reads the outside world: sources, weight formats, cards, probes that run models."""
