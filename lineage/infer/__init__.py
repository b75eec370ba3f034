"""From sketches to parents: geometry, evidence, merges and the graph."""
