"""Come in by HTTP: decode, ask the service, encode.

Lives here: the table of routes, Cook's own and ours under `/v1`, and who is asking.
Not here: field names (`wire`), or any rule about jobs (`service` and below).
"""
