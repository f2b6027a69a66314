"""Cook's JSON: conversion of domain types to and from the bodies of the REST API.

Lives here: every field name, status code and error body of Cook's REST API and of the routes under `/v1`.
Not here: the domain types (`model`); routes (`api`); requests over a socket (`client`). Only `api` and
`client` import this package.
"""
