"""Model families as data: tensor names of each architecture and the roles they stand for."""
