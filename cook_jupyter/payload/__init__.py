"""Encoding, signing and storage of calls and their results.

Lives here: codecs, signatures, and the blob stores for large payloads.
Not here: what runs a call (`worker`); futures (`executor`). The scheduler carries payloads and never
unpickles one.
"""
