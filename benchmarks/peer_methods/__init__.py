"""Other published ways to find parents, and modelkin itself, behind one small protocol.

`protocol` is the socket, `blinding` prepares the files that everyone gets, `loading` reads whole
weights for the methods that need them. `modeldna` is run as published; the others are short
re-implementations from the descriptions in their papers, made for comparison alone: no code of
their authors is used, and a figure here is a figure of the method as understood here.
"""
