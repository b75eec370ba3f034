"""What the numbers say: records, sketches, distances, parents, the statistics of safety loss.

Values in, values out. Nothing here opens a file or a socket, runs SQL, reads a clock or prints.
"""
