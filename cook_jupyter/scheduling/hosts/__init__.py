"""The hosts of a pool: their room and constraints, in columns and one by one, and which are out of use."""
