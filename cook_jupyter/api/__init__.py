"""The HTTP API: decode a request, call the service, encode the reply.

Lives here: the routes (Cook's own, and those of cook_jupyter under `/v1`), authentication, and the limits on
requests and connections.
Not here: field names (`wire`), or any rule about jobs (`service` and below).
"""
