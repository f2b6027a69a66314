"""A call on its way out, a result on its way back.

Lives here: codecs, signatures, and where bytes rest.
Not here: what runs a call (`worker`); futures (`executor`). The scheduler carries payloads and never
opens one.
"""
