"""The words as Cook JSON, both ways.

Lives here: every field name, status code and error body of Cook's REST API and of our own under `/v1`.
Not here: what the words mean (`model`); routes (`api`); requests over a socket (`client`).
Only those two doors import it.
"""
